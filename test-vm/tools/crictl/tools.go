//go:build tools

// The crictl that the testbed runs, pinned by go.mod and go.sum.
package tools

import _ "sigs.k8s.io/cri-tools/cmd/crictl"
