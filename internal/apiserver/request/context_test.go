package request

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
)

func TestContextEnds(t *testing.T) {
	for name, look := range map[string]func(*Context){"asked for": func(c *Context) { c.Done() }, "not asked for": func(*Context) {}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := NewContext(t.Context(), &Scope{}, time.Now().Add(time.Second))
				defer c.Cancel()
				look(c)
				if c.Err() != nil {
					t.Error("ended at once")
				}
				time.Sleep(time.Second + time.Millisecond)
				if !errors.Is(c.Err(), context.DeadlineExceeded) {
					t.Errorf("after the deadline: %v", c.Err())
				}
				<-c.Done()

				c = NewContext(t.Context(), &Scope{}, time.Time{})
				look(c)
				c.Cancel()
				<-c.Done()
				if !errors.Is(c.Err(), context.Canceled) {
					t.Errorf("cancelled: %v", c.Err())
				}

				parent, cancel := context.WithTimeout(t.Context(), time.Minute)
				c = NewContext(parent, &Scope{}, time.Now().Add(time.Hour))
				defer c.Cancel()
				look(c)
				if at, ok := c.Deadline(); !ok || time.Until(at) > time.Minute {
					t.Errorf("the parent's deadline was forgotten: %v", at)
				}
				below, end := context.WithCancel(c)
				defer end()
				cancel()
				<-below.Done()
				if !errors.Is(c.Err(), context.Canceled) {
					t.Errorf("the parent was cancelled: %v", c.Err())
				}
			})
		})
	}
}

func TestContextKnows(t *testing.T) {
	outer := WithUser(WithScope(t.Context(), &Scope{AuditID: "outer"}), &user.DefaultInfo{Name: "outer"})
	c := NewContext(outer, &Scope{AuditID: "inner"}, time.Now().Add(time.Hour))
	defer c.Cancel()
	if ScopeFrom(c).AuditID != "inner" {
		t.Error("the scope is the parent's")
	}
	if u, ok := UserFrom(c); !ok || u.GetName() != "outer" {
		t.Errorf("before it is said who asks: %v", u)
	}
	c.SetUser(&user.DefaultInfo{Name: "inner"})
	c.Done()
	if u, _ := UserFrom(c); u.GetName() != "inner" {
		t.Errorf("user %v", u)
	}
}
