package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
)

// errUninitialized is what container runtimes say while there is no configuration; people and programs look for these words.
var errUninitialized = errors.New("cni plugin not initialized")

// load reads the first valid configuration of a directory, in the order of the files' names. The error names those that aren't valid.
func load(dir string) (*libcni.NetworkConfigList, error) {
	files, err := libcni.ConfFiles(dir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUninitialized, err)
	}
	slices.Sort(files)
	var wrong []string
	for _, file := range files {
		list, err := read(file)
		if err == nil {
			return list, nil
		}
		wrong = append(wrong, fmt.Sprintf("%s: %v", filepath.Base(file), err))
	}
	if len(wrong) > 0 {
		return nil, fmt.Errorf("%w: no valid network configuration in %s (%s)", errUninitialized, dir, strings.Join(wrong, "; "))
	}
	return nil, errUninitialized
}

func read(file string) (*libcni.NetworkConfigList, error) {
	list, err := readAny(file)
	if err != nil {
		return nil, err
	}
	if err := utils.ValidateNetworkName(list.Name); err != nil {
		return nil, err
	}
	return list, nil
}

// readAny reads a list of plugins, or one plugin in the form of before CNI 0.3.0.
func readAny(file string) (*libcni.NetworkConfigList, error) {
	if strings.HasSuffix(file, ".conflist") {
		return libcni.NetworkConfFromFile(file)
	}
	one, err := libcni.ConfFromFile(file) //nolint:staticcheck // the old form is still in use
	if err != nil {
		return nil, err
	}
	return libcni.ConfListFromConf(one)
}

// whole is a list with all its plugins in one document; some of them may have come from other files.
func whole(list *libcni.NetworkConfigList) ([]byte, error) {
	plugins := make([]json.RawMessage, len(list.Plugins))
	for i, p := range list.Plugins {
		plugins[i] = p.Bytes
	}
	return json.Marshal(map[string]any{
		"name": list.Name, "cniVersion": list.CNIVersion, "disableCheck": list.DisableCheck, "disableGC": list.DisableGC, "plugins": plugins,
	})
}

// capable says whether one of the plugins wants to be told of something that is known only at run time.
func capable(list *libcni.NetworkConfigList, capability string) bool {
	for _, p := range list.Plugins {
		if p.Network.Capabilities[capability] {
			return true
		}
	}
	return false
}
