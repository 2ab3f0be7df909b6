// Package controllertest is the stage for tests of controllers: the real API server over the memory engine, without sockets, with every request
// allowed and nothing admitted or refused by plugins. It is for tests only.
package controllertest
