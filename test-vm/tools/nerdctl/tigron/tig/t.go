// Package tig stands for the one of nerdctl's own test module, which no module proxy has. Helpers of
// nerdctl's tests, which its program imports and never calls, name one type of it.
package tig

// T is what those helpers take for a running test.
type T interface {
	Helper()
	FailNow()
	Fail()
	Log(args ...any)
	Name() string
	TempDir() string
}
