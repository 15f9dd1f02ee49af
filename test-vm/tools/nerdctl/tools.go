//go:build tools

// The nerdctl that the testbed runs, pinned by go.mod and go.sum.
package tools

import _ "github.com/containerd/nerdctl/v2/cmd/nerdctl"
