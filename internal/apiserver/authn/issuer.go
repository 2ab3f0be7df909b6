package authn

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	// DefaultIssuer is the issuer of service account tokens.
	DefaultIssuer = "https://kubernetes.default.svc.cluster.local"
	// DefaultAudience is whom a token is for when nobody says.
	DefaultAudience = "https://kubernetes.default.svc"
	// legacyIssuer is the issuer of the tokens that live in secrets.
	legacyIssuer = "kubernetes/serviceaccount"
)

// KeysPath and DiscoveryPath are where the documents of OpenID Connect discovery are served.
const (
	KeysPath      = "/openid/v1/jwks"
	DiscoveryPath = "/.well-known/openid-configuration"
)

// KeysContentType is the media type of the key set (RFC 7517, section 8.5.1).
const KeysContentType = "application/jwk-set+json"

// Issuer signs service account tokens and knows the keys to check them with.
type Issuer struct {
	name      string
	audiences []string
	algorithm jose.SignatureAlgorithm
	signer    jose.Signer
	keys      map[string]crypto.PublicKey // by key id
	set       jose.JSONWebKeySet
}

// NewIssuer returns the issuer called name ("" is DefaultIssuer) that signs with key; older keys are still believed. Audiences
// are the names that this API server answers to, the first one being put in tokens that are asked for without; nil is
// DefaultAudience and the issuer's name.
func NewIssuer(name string, audiences []string, key crypto.Signer, older ...crypto.PublicKey) (*Issuer, error) {
	if name == "" {
		name = DefaultIssuer
	}
	if len(audiences) == 0 {
		audiences = []string{DefaultAudience}
		if name != DefaultAudience {
			audiences = append(audiences, name)
		}
	}
	i := &Issuer{name: name, audiences: audiences, keys: map[string]crypto.PublicKey{}}
	for n, public := range append([]crypto.PublicKey{key.Public()}, older...) {
		algorithm, err := algorithmOf(public)
		if err != nil {
			return nil, err
		}
		id, err := keyID(public)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			i.algorithm = algorithm
			signingKey := jose.SigningKey{Algorithm: algorithm, Key: jose.JSONWebKey{Key: key, KeyID: id, Algorithm: string(algorithm)}}
			if i.signer, err = jose.NewSigner(signingKey, nil); err != nil {
				return nil, fmt.Errorf("service account signing key: %w", err)
			}
		}
		if _, ok := i.keys[id]; ok {
			continue
		}
		i.keys[id] = public
		i.set.Keys = append(i.set.Keys, jose.JSONWebKey{Key: public, KeyID: id, Algorithm: string(algorithm), Use: "sig"})
	}
	return i, nil
}

func algorithmOf(key crypto.PublicKey) (jose.SignatureAlgorithm, error) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return jose.RS256, nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return jose.ES256, nil
		case elliptic.P384():
			return jose.ES384, nil
		case elliptic.P521():
			return jose.ES512, nil
		}
	}
	return "", fmt.Errorf("service account signing key: cannot sign tokens with a %T: use RSA or ECDSA", key)
}

// keyID names a public key by its hash, as upstream does.
func keyID(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("service account key: %w", err)
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// Keys is the document at KeysPath.
func (i *Issuer) Keys() ([]byte, error) { return json.Marshal(i.set) }

// Discovery is the document at DiscoveryPath; server is the URL that the API server is reached at.
func (i *Issuer) Discovery(server string) ([]byte, error) {
	return json.Marshal(struct {
		Issuer        string                    `json:"issuer"`
		KeysURI       string                    `json:"jwks_uri"`
		ResponseTypes []string                  `json:"response_types_supported"`
		SubjectTypes  []string                  `json:"subject_types_supported"`
		Algorithms    []jose.SignatureAlgorithm `json:"id_token_signing_alg_values_supported"`
	}{i.name, server + KeysPath, []string{"id_token"}, []string{"public"}, i.algorithms()})
}

func (i *Issuer) algorithms() []jose.SignatureAlgorithm {
	var out []jose.SignatureAlgorithm
	seen := map[string]bool{}
	for _, k := range i.set.Keys {
		if !seen[k.Algorithm] {
			seen[k.Algorithm] = true
			out = append(out, jose.SignatureAlgorithm(k.Algorithm))
		}
	}
	return out
}

// claims are what tokens say. Kubernetes is set in bound tokens, the four after it in the older ones.
type claims struct {
	jwt.Claims
	// Audience takes the place of the embedded one, which writes a single name without brackets.
	Audience   audience     `json:"aud,omitempty"`
	Kubernetes *boundClaims `json:"kubernetes.io,omitempty"`

	LegacyNamespace  string `json:"kubernetes.io/serviceaccount/namespace,omitempty"`
	LegacySecret     string `json:"kubernetes.io/serviceaccount/secret.name,omitempty"`
	LegacyAccount    string `json:"kubernetes.io/serviceaccount/service-account.name,omitempty"`
	LegacyAccountUID string `json:"kubernetes.io/serviceaccount/service-account.uid,omitempty"`
	legacy           bool
}

// audience is read from a name or a list of names (RFC 7519, section 4.1.3) and always written as a list, as upstream does.
type audience []string

// UnmarshalJSON reads a name or a list of names.
func (a *audience) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}

type boundClaims struct {
	Namespace      string           `json:"namespace,omitempty"`
	Node           *objectRef       `json:"node,omitempty"`
	Pod            *objectRef       `json:"pod,omitempty"`
	Secret         *objectRef       `json:"secret,omitempty"`
	ServiceAccount objectRef        `json:"serviceaccount"`
	WarnAfter      *jwt.NumericDate `json:"warnafter,omitempty"`
}

type objectRef struct {
	Name string `json:"name"`
	UID  string `json:"uid,omitempty"`
}

func (i *Issuer) sign(c claims) (string, error) {
	token, err := jwt.Signed(i.signer).Claims(c).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return token, nil
}

// parse reads a token and checks its signature, but neither its times nor its audience.
func (i *Issuer) parse(token string) (*claims, error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.ES512, jose.RS256, jose.RS384, jose.RS512})
	if err != nil {
		return nil, errInvalidToken
	}
	var c claims
	if err := parsed.UnsafeClaimsWithoutVerification(&c); err != nil {
		return nil, errInvalidToken
	}
	switch c.Issuer {
	case i.name:
	case legacyIssuer:
		c.legacy = true
	default:
		return nil, errInvalidToken
	}
	keys := i.keys
	if id := parsed.Headers[0].KeyID; id != "" {
		if key, ok := i.keys[id]; ok {
			keys = map[string]crypto.PublicKey{id: key}
		}
	}
	for _, key := range keys {
		if parsed.Claims(key) == nil {
			return &c, nil
		}
	}
	return nil, errInvalidToken
}
