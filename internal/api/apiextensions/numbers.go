package apiextensions

import (
	"bytes"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/util/json"
)

// rewriteNumbers writes the values within a schema (defaults, examples, enumerations) as everything else is written: 1.0 becomes 1, and so do the defaults that objects are
// given. Whatever is changed is replaced, for the bytes may be somebody else's.
func rewriteNumbers(s *apiextensionsv1.JSONSchemaProps) {
	s.Default, s.Example = rewritten(s.Default), rewritten(s.Example)
	for i := range s.Enum {
		s.Enum[i] = *rewritten(&s.Enum[i])
	}
	if s.Items != nil {
		if s.Items.Schema != nil {
			rewriteNumbers(s.Items.Schema)
		}
		for i := range s.Items.JSONSchemas {
			rewriteNumbers(&s.Items.JSONSchemas[i])
		}
	}
	for _, list := range [...][]apiextensionsv1.JSONSchemaProps{s.AllOf, s.OneOf, s.AnyOf} {
		for i := range list {
			rewriteNumbers(&list[i])
		}
	}
	if s.Not != nil {
		rewriteNumbers(s.Not)
	}
	for _, m := range [...]map[string]apiextensionsv1.JSONSchemaProps{s.Properties, s.PatternProperties, s.Definitions} {
		for name, p := range m {
			rewriteNumbers(&p)
			m[name] = p
		}
	}
	for _, one := range [...]*apiextensionsv1.JSONSchemaPropsOrBool{s.AdditionalProperties, s.AdditionalItems} {
		if one != nil && one.Schema != nil {
			rewriteNumbers(one.Schema)
		}
	}
	for _, d := range s.Dependencies {
		if d.Schema != nil {
			rewriteNumbers(d.Schema)
		}
	}
}

// rewritten is a value in its own words. What can't be read stays for validation to complain about.
func rewritten(j *apiextensionsv1.JSON) *apiextensionsv1.JSON {
	if j == nil || len(j.Raw) == 0 || bytes.Equal(j.Raw, []byte("null")) {
		return j
	}
	var v any
	if err := json.Unmarshal(j.Raw, &v); err != nil {
		return j
	}
	raw, err := json.Marshal(v)
	if err != nil || bytes.Equal(raw, j.Raw) {
		return j
	}
	return rewritten(&apiextensionsv1.JSON{Raw: raw}) // -0.0 is -0 first, then 0
}
