// Package apitest takes documents through a kind the way the server does, so that tests of a kind read as what a user sends and
// what he is told. Only tests import it.
package apitest
