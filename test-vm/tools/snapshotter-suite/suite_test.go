// Package suite runs containerd's own suite for snapshotters, as its module has it, over a
// snapshotter's socket.
//
// SNAPSHOTTER_ADDRESS is the socket, SNAPSHOTTER_NAME what the snapshotter is called there. Every
// case wants an empty snapshotter: run with -test.parallel=1, as root, on a snapshotter that nobody
// else uses, since whatever it holds is removed.
package suite

import (
	"context"
	"fmt"
	"os"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func TestSnapshotter(t *testing.T) {
	address, name := os.Getenv("SNAPSHOTTER_ADDRESS"), os.Getenv("SNAPSHOTTER_NAME")
	if address == "" || name == "" {
		t.Fatal("SNAPSHOTTER_ADDRESS and SNAPSHOTTER_NAME are not set")
	}
	connection, err := grpc.NewClient("unix://"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	open := func(ctx context.Context, _ string) (snapshots.Snapshotter, func() error, error) {
		snapshotter := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(connection), name)
		empty := func() error { return removeAll(ctx, snapshotter) }
		return snapshotter, empty, empty()
	}
	// The mounts are overlayfs', on which a lower layer's directory cannot be renamed: by this name
	// the suite knows that.
	testsuite.SnapshotterSuite(t, "overlayfs", open)
}

// removeAll removes snapshots from the leaves down until there are none.
func removeAll(ctx context.Context, snapshotter snapshots.Snapshotter) error {
	for {
		parents := map[string]bool{}
		var names []string
		err := snapshotter.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
			parents[info.Parent] = true
			names = append(names, info.Name)
			return nil
		})
		if err != nil {
			return fmt.Errorf("failed to list: %w", err)
		}
		if len(names) == 0 {
			return cleanUp(ctx, snapshotter)
		}
		for _, name := range names {
			if parents[name] {
				continue
			}
			if err := snapshotter.Remove(ctx, name); err != nil {
				return fmt.Errorf("failed to remove %s: %w", name, err)
			}
		}
	}
}

func cleanUp(ctx context.Context, snapshotter snapshots.Snapshotter) error {
	cleaner, ok := snapshotter.(snapshots.Cleaner)
	if !ok {
		return nil
	}
	if err := cleaner.Cleanup(ctx); err != nil && !errdefs.IsNotImplemented(err) {
		return fmt.Errorf("failed to clean up: %w", err)
	}
	return nil
}
