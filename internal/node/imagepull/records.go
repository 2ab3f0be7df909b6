package imagepull

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/atomicfile"
	"github.com/celox/celox/internal/node/imagelogin"
)

// maxSecrets is how many secrets are added to the record of an image only because they were seen to be good for it.
const maxSecrets = 100

// Records remember which images this node pulled and with what, so that who may not pull an image may not use it because somebody else did (KEP-2535). An
// image that was brought in another way is for everybody. They are files, and are used by many goroutines.
type Records struct {
	pulled, pulling string // directories
	log             *slog.Logger

	mu        sync.Mutex // guards all below and the files
	recovered bool
	flying    map[string]int     // pulls under way, by image as its container names it
	known     map[string]*record // by id of the image
}

// record is what is known of one image.
type record struct {
	Ref string `json:"ref"`
	// Repositories are those that it was pulled from, by name without tag and digest.
	Repositories map[string]access `json:"repositories"`
}

// access is who may use an image from a repository.
type access struct {
	Anyone   bool                 `json:"anyone,omitempty"` // it was pulled without credentials, or with the node's own
	Secrets  []secretID           `json:"secrets,omitempty"`
	Accounts []imagelogin.Account `json:"accounts,omitempty"` // whose tokens a credential provider was shown
}

// source is where credentials came from: a secret, a provider that was shown a token, or neither, which is nobody in particular.
type source struct {
	secret  *secretID
	account *imagelogin.Account
}

// secretID is a secret, and what it said for the image when it was good.
type secretID struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	Hash      string `json:"hash"`
}

// intent is a pull that was begun.
type intent struct {
	Image string `json:"image"`
}

// same says that two are the same secret, whatever it holds.
func (s secretID) same(o secretID) bool {
	return s.Namespace == o.Namespace && s.Name == o.Name && s.UID == o.UID
}

func identify(s *corev1.Secret, a *runtimeapi.AuthConfig) *secretID {
	text, _ := json.Marshal([]string{a.Username, a.Password, a.ServerAddress, a.IdentityToken, a.RegistryToken}) // texts can be encoded
	sum := sha256.Sum256(text)
	return &secretID{s.Namespace, s.Name, string(s.UID), hex.EncodeToString(sum[:])}
}

// OpenRecords reads the records in a directory, which is made if it is not there. One that cannot be read counts as one that names nobody.
func OpenRecords(dir string, log *slog.Logger) (*Records, error) {
	r := &Records{log: log, pulled: filepath.Join(dir, "pulled"), pulling: filepath.Join(dir, "pulling"), flying: map[string]int{}, known: map[string]*record{}}
	for _, d := range []string{r.pulled, r.pulling} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("image records: %w", err)
		}
	}
	err := each(r.pulled, func(data []byte) {
		var known record
		if json.Unmarshal(data, &known) == nil && known.Ref != "" {
			r.known[known.Ref] = &known
		}
	})
	if err != nil {
		return nil, fmt.Errorf("image records: %w", err)
	}
	return r, nil
}

func each(dir string, f func(data []byte)) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if atomicfile.Leftover(e.Name()) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
		if filepath.Ext(e.Name()) != ".json" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		f(data)
	}
	return nil
}

// fileOf is the file of something by its name, which may have any letters.
func fileOf(dir, name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(dir, "sha256-"+hex.EncodeToString(sum[:])+".json")
}

// write puts a file in place whole. It is not synced: an image without a record that can be read is for nobody in particular.
func write(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, data, 0o600, atomicfile.Unsynced)
}

// recover makes records of images whose pull ended without this process, which are there though nobody knows for whom, and drops those of images that
// are gone. It does so once. find looks for an image on the node.
func (r *Records) recover(ctx context.Context, find func(ctx context.Context, image string) (ref string, err error)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.recovered {
		return nil
	}
	var begun []string
	if err := each(r.pulling, func(data []byte) {
		var i intent
		if json.Unmarshal(data, &i) == nil && i.Image != "" {
			begun = append(begun, i.Image)
		}
	}); err != nil {
		return err
	}
	for _, image := range begun {
		if r.flying[image] > 0 {
			continue
		}
		name, err := Name(image)
		if err != nil {
			continue
		}
		ref, err := find(ctx, name)
		if err != nil {
			return err
		}
		if ref != "" && r.known[ref] == nil {
			if err := r.store(&record{Ref: ref, Repositories: map[string]access{}}); err != nil {
				return err
			}
		}
		if err := os.Remove(fileOf(r.pulling, image)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for ref := range r.known {
		if found, err := find(ctx, ref); err != nil {
			return err
		} else if found == "" {
			if err := r.forget(ref); err != nil {
				return err
			}
		}
	}
	r.recovered = true
	return nil
}

func (r *Records) store(known *record) error {
	if err := write(fileOf(r.pulled, known.Ref), known); err != nil {
		return err
	}
	r.known[known.Ref] = known
	return nil
}

// begin notes that an image is going to be pulled. end must follow.
func (r *Records) begin(image string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.flying[image] == 0 {
		if err := write(fileOf(r.pulling, image), intent{image}); err != nil {
			return err
		}
	}
	r.flying[image]++
	return nil
}

// end notes how a pull ended: ref is "" if it failed.
func (r *Records) end(image, ref string, used source) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ref != "" {
		a := access{Anyone: used == source{}}
		if used.secret != nil {
			a.Secrets = []secretID{*used.secret}
		}
		if used.account != nil {
			a.Accounts = []imagelogin.Account{*used.account}
		}
		if err := r.grant(image, ref, a); err != nil {
			return err // the intent stays: the image is known to have been pulled
		}
	}
	if r.flying[image]--; r.flying[image] > 0 {
		return nil
	}
	delete(r.flying, image)
	if err := os.Remove(fileOf(r.pulling, image)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// grant adds to who may use an image. r.mu must be held.
func (r *Records) grant(image, ref string, more access) error {
	repository, err := repositoryOf(image)
	if err != nil {
		return err
	}
	next := &record{Ref: ref, Repositories: map[string]access{}}
	if known := r.known[ref]; known != nil {
		for name, a := range known.Repositories {
			next.Repositories[name] = a
		}
	}
	have, there := next.Repositories[repository]
	switch {
	case there && have.Anyone:
		return nil
	case more.Anyone:
		next.Repositories[repository] = access{Anyone: true}
		return r.store(next)
	}
	secrets := slices.Clone(have.Secrets)
	for _, s := range more.Secrets {
		if i := slices.IndexFunc(secrets, s.same); i < 0 {
			secrets = append(secrets, s)
		} else {
			secrets[i] = s
		}
	}
	accounts := slices.Clone(have.Accounts)
	for _, a := range more.Accounts {
		if !slices.Contains(accounts, a) {
			accounts = append(accounts, a)
		}
	}
	if there && slices.Equal(secrets, have.Secrets) && len(accounts) == len(have.Accounts) {
		return nil
	}
	next.Repositories[repository] = access{Secrets: secrets, Accounts: accounts}
	return r.store(next)
}

// mustPull says that who has these secrets has to show to the registry that an image on the node is for them.
func (r *Records) mustPull(image, ref string, secrets []secretID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.known[ref]
	if known == nil {
		// Not pulled from here, unless it is just now, the process ended before it could say so, or what it said cannot be read.
		return r.flying[image] > 0 || exists(fileOf(r.pulling, image)) || exists(fileOf(r.pulled, ref))
	}
	repository, err := repositoryOf(image)
	if err != nil {
		return true
	}
	a := known.Repositories[repository]
	if a.Anyone {
		return false
	}
	for _, s := range secrets {
		for _, good := range a.Secrets {
			if s.Hash != good.Hash && !s.same(good) {
				continue
			}
			if len(a.Secrets) < maxSecrets {
				if err := r.grant(image, ref, access{Secrets: []secretID{s}}); err != nil {
					r.log.Warn("who may use an image could not be written", "image", image, "err", err) // the registry will be asked
				}
			}
			return false
		}
	}
	return true
}

// accounts are the service accounts that an image from a repository is for.
func (r *Records) accounts(image, ref string) []imagelogin.Account {
	repository, err := repositoryOf(image)
	if err != nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.known[ref]; known != nil {
		return known.Repositories[repository].Accounts
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// Forget drops what is known of an image that is removed.
func (r *Records) Forget(ref string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.forget(ref)
}

// forget drops a record. r.mu must be held.
func (r *Records) forget(ref string) error {
	delete(r.known, ref)
	if err := os.Remove(fileOf(r.pulled, ref)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget image %s: %w", ref, err)
	}
	return nil
}

// repositoryOf is an image's name without tag and digest.
func repositoryOf(image string) (string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", err
	}
	return named.Name(), nil
}
