//go:build tools

// The Docker daemon with containerd's image store that the testbed runs, pinned by go.mod and go.sum.
package tools

import (
	_ "github.com/moby/moby/v2/cmd/dockerd"
)
