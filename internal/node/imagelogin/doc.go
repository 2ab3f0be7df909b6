// Package imagelogin asks programs for the logins of registries: the image credential providers of a node (KEP-2133), and with tokens of pods' service
// accounts (KEP-4412).
//
// A CredentialProviderConfig says which program is asked for which images. It gets a CredentialProviderRequest on its standard input and answers with
// logins, for which registries they are, and how long and for what they may be kept. What is kept is in memory only. The rules for the names of images are
// in match.go.
//
// It knows neither pull secrets nor the runtime: package imagepull puts both together.
package imagelogin
