package core

import (
	"crypto/tls"
	"encoding/json"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

const (
	// maxDataBytes is the most that the values of a ConfigMap or Secret may hold together.
	maxDataBytes = 1 << 20
	// frozen is what changing an object is answered with whose immutable flag is set.
	frozen = "field is immutable when `immutable` is set"
	// redacted stands in complaints where a secret's content would.
	redacted = "<secret contents redacted>"
)

func configMap() *api.Kind {
	return &api.Kind{
		Kind: "ConfigMap", Resource: "configmaps", Singular: "configmap", ShortNames: []string{"cm"}, Namespaced: true, Prefix: "configmaps",
		Versions: []api.Version{api.NewVersion[corev1.ConfigMap, corev1.ConfigMapList]("v1")}, Hub: "v1",
		Default:                  api.On(func(c *corev1.ConfigMap) { noNulls(c.BinaryData) }),
		Validate:                 api.Check(validateConfigMap),
		ValidateUpdate:           api.CheckUpdate(validateConfigMapUpdate),
		AllowUnconditionalUpdate: true,
		Columns: api.Columns(table.Name(),
			table.Column("Data", table.String, corev1.ConfigMap{}.SwaggerDoc()["data"]),
			table.AgeColumn()),
		Row: api.Row(func(c *corev1.ConfigMap, now time.Time) []any {
			return []any{c.Name, int64(len(c.Data) + len(c.BinaryData)), table.Age(c, now)}
		}),
	}
}

func validateConfigMap(c *corev1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	total := 0
	for _, key := range check.Keys(c.Data) {
		p := field.NewPath("data").Key(key)
		errs = append(errs, check.Each(validation.IsConfigMapKey(key), p, key)...)
		if _, twice := c.BinaryData[key]; twice {
			errs = append(errs, field.Invalid(p, key, "duplicate of key present in binaryData"))
		}
		total += len(c.Data[key])
	}
	for _, key := range check.Keys(c.BinaryData) {
		errs = append(errs, check.Each(validation.IsConfigMapKey(key), field.NewPath("binaryData").Key(key), key)...)
		total += len(c.BinaryData[key])
	}
	if total > maxDataBytes {
		errs = append(errs, field.TooLong(field.NewPath(""), "", maxDataBytes))
	}
	return errs
}

func validateConfigMapUpdate(c, old *corev1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	if old.Immutable != nil && *old.Immutable {
		errs = append(errs, keepFrozen(c.Immutable)...)
		if !reflect.DeepEqual(c.Data, old.Data) {
			errs = append(errs, field.Forbidden(field.NewPath("data"), frozen))
		}
		if !reflect.DeepEqual(c.BinaryData, old.BinaryData) {
			errs = append(errs, field.Forbidden(field.NewPath("binaryData"), frozen))
		}
	}
	return append(errs, validateConfigMap(c)...)
}

// keepFrozen refuses to take the immutable flag back.
func keepFrozen(flag *bool) field.ErrorList {
	if flag == nil || !*flag {
		return field.ErrorList{field.Forbidden(field.NewPath("immutable"), frozen)}
	}
	return nil
}

func secret() *api.Kind {
	return &api.Kind{
		Kind: "Secret", Resource: "secrets", Singular: "secret", Namespaced: true, Prefix: "secrets",
		Versions: []api.Version{api.NewVersion[corev1.Secret, corev1.SecretList]("v1")}, Hub: "v1",
		Default:                  api.On(defaultSecret),
		Validate:                 api.Check(validateSecret),
		ValidateUpdate:           api.CheckUpdate(validateSecretUpdate),
		Warnings:                 api.Warn(warnSecret),
		AllowUnconditionalUpdate: true,
		FieldNames:               []string{"type"},
		Fields:                   func(obj api.Object) fields.Set { return fields.Set{"type": string(obj.(*corev1.Secret).Type)} },
		Columns: api.Columns(table.Name(),
			table.Column("Type", table.String, corev1.Secret{}.SwaggerDoc()["type"]),
			table.Column("Data", table.String, corev1.Secret{}.SwaggerDoc()["data"]),
			table.AgeColumn()),
		Row: api.Row(func(s *corev1.Secret, now time.Time) []any {
			return []any{s.Name, string(s.Type), int64(len(s.Data)), table.Age(s, now)}
		}),
	}
}

func defaultSecret(s *corev1.Secret) {
	if s.Type == "" {
		s.Type = corev1.SecretTypeOpaque
	}
	// stringData is a convenience for writing: it is folded into data and never stored.
	noNulls(s.Data)
	for k, v := range s.StringData {
		if s.Data == nil {
			s.Data = map[string][]byte{}
		}
		s.Data[k] = []byte(v)
	}
	s.StringData = nil
}

// noNulls makes values that a client wrote as null empty ones, which is how they are stored.
func noNulls(data map[string][]byte) {
	for k, v := range data {
		if v == nil {
			data[k] = []byte{}
		}
	}
}

func validateSecret(s *corev1.Secret) field.ErrorList {
	var errs field.ErrorList
	data := field.NewPath("data")
	total := 0
	for _, key := range check.Keys(s.Data) {
		errs = append(errs, check.Each(validation.IsConfigMapKey(key), data.Key(key), key)...)
		total += len(s.Data[key])
	}
	if total > maxDataBytes {
		errs = append(errs, field.TooLong(data, "", maxDataBytes))
	}
	required := func(keys ...string) {
		for _, key := range keys {
			if _, ok := s.Data[key]; !ok {
				errs = append(errs, field.Required(data.Key(key), ""))
			}
		}
	}
	isJSON := func(key string) {
		v, ok := s.Data[key]
		if !ok {
			errs = append(errs, field.Required(data.Key(key), ""))
		} else if err := json.Unmarshal(v, &map[string]any{}); err != nil {
			errs = append(errs, field.Invalid(data.Key(key), redacted, err.Error()))
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			errs = append(errs, field.Required(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey), ""))
		}
	case corev1.SecretTypeDockercfg:
		isJSON(corev1.DockerConfigKey)
	case corev1.SecretTypeDockerConfigJson:
		isJSON(corev1.DockerConfigJsonKey)
	case corev1.SecretTypeBasicAuth:
		_, user := s.Data[corev1.BasicAuthUsernameKey]
		_, password := s.Data[corev1.BasicAuthPasswordKey]
		if !user && !password { // either will do
			required(corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey)
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			errs = append(errs, field.Required(data.Key(corev1.SSHAuthPrivateKey), ""))
		}
	case corev1.SecretTypeTLS:
		required(corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	}
	return errs
}

func validateSecretUpdate(s, old *corev1.Secret) field.ErrorList {
	errs := check.Immutable(s.Type, old.Type, field.NewPath("type"))
	if old.Immutable != nil && *old.Immutable {
		errs = append(errs, keepFrozen(s.Immutable)...)
		if !reflect.DeepEqual(s.Data, old.Data) {
			errs = append(errs, field.Forbidden(field.NewPath("data"), frozen))
		}
	}
	return append(errs, validateSecret(s)...)
}

// warnSecret tells of a certificate and a key that do not belong together, or aren't what they should be.
func warnSecret(s, _ *corev1.Secret) []string {
	if s.Type != corev1.SecretTypeTLS {
		return nil
	}
	if _, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]); err != nil {
		return []string{err.Error()}
	}
	return nil
}

// enforceMountable is the annotation that limited the pods of an account to its secrets.
const enforceMountable = "kubernetes.io/enforce-mountable-secrets"

func serviceAccount() *api.Kind {
	return &api.Kind{
		Kind: "ServiceAccount", Resource: "serviceaccounts", Singular: "serviceaccount", ShortNames: []string{"sa"}, Namespaced: true, Prefix: "serviceaccounts",
		ReturnDeleted: true,
		Versions:      []api.Version{api.NewVersion[corev1.ServiceAccount, corev1.ServiceAccountList]("v1")}, Hub: "v1",
		Subresources:             []api.Subresource{{Name: "token", Kind: tokenRequestKind, Verbs: []string{"create"}}},
		PrepareForCreate:         api.On(func(s *corev1.ServiceAccount) { s.Secrets = keepSecretNames(s.Secrets) }),
		PrepareForUpdate:         api.OnUpdate(func(s, _ *corev1.ServiceAccount) { s.Secrets = keepSecretNames(s.Secrets) }),
		Warnings:                 api.Warn(warnServiceAccount),
		AllowUnconditionalUpdate: true,
		Columns:                  api.Columns(table.Name(), table.AgeColumn()),
		Row: api.Row(func(s *corev1.ServiceAccount, now time.Time) []any {
			return []any{s.Name, table.Age(s, now)}
		}),
	}
}

func warnServiceAccount(s, old *corev1.ServiceAccount) []string {
	if old != nil {
		if _, had := old.Annotations[enforceMountable]; had {
			return nil
		}
	}
	if _, ok := s.Annotations[enforceMountable]; !ok {
		return nil
	}
	return []string{"metadata.annotations[" + enforceMountable + "]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"}
}

// keepSecretNames keeps of references to secrets the name, which is all that counts in the account's own namespace.
func keepSecretNames(in []corev1.ObjectReference) []corev1.ObjectReference {
	for i := range in {
		in[i] = corev1.ObjectReference{Name: in[i].Name}
	}
	return in
}
