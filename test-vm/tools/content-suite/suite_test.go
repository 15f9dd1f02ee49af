// Package suite runs containerd's own suite for content stores, as its module has it, over a socket:
// of a content store alone, or of a containerd that has it behind its metadata.
//
// CONTENT_ADDRESS is the socket. Everything that the store holds in the suite's namespaces is
// removed; alone, everything that it holds. CONTENT_POLICY is the policy of the containerd behind the
// socket: "shared" or "isolated"; nothing for a store alone.
package suite

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	"github.com/containerd/containerd/v2/core/content"
	contentproxy "github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/content/testsuite"
	"github.com/containerd/containerd/v2/core/leases"
	leasesproxy "github.com/containerd/containerd/v2/core/leases/proxy"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func TestContent(t *testing.T) {
	address, policy := os.Getenv("CONTENT_ADDRESS"), os.Getenv("CONTENT_POLICY")
	if address == "" {
		t.Fatal("CONTENT_ADDRESS is not set")
	}
	connection, err := grpc.NewClient("unix://"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	switch policy {
	case "":
		testsuite.ContentSuite(t, "alone", alone(connection))
	case "shared":
		testsuite.ContentSuite(t, policy, throughContainerd(connection))
		testsuite.ContentCrossNSSharedSuite(t, policy, throughContainerd(connection))
	case "isolated":
		testsuite.ContentSuite(t, policy, throughContainerd(connection))
		testsuite.ContentCrossNSIsolatedSuite(t, policy, throughContainerd(connection))
		testsuite.ContentSharedNSIsolatedSuite(t, policy, throughContainerd(connection))
	default:
		t.Fatalf("no policy %q", policy)
	}
}

// alone is a store that knows no namespaces.
func alone(connection *grpc.ClientConn) testsuite.StoreInitFn {
	return func(ctx context.Context, _ string) (context.Context, content.Store, func() error, error) {
		store := contentproxy.NewContentStore(contentapi.NewContentClient(connection))
		empty := func() error { return removeAll(ctx, store) }
		return ctx, store, empty, empty()
	}
}

// throughContainerd gives every case namespaces of its own with a lease each, as containerd's own
// integration tests do.
func throughContainerd(connection *grpc.ClientConn) testsuite.StoreInitFn {
	spaces := namespacesapi.NewNamespacesClient(connection)
	manager := leasesproxy.NewLeaseManager(leasesapi.NewLeasesClient(connection))
	return func(ctx context.Context, _ string) (context.Context, content.Store, func() error, error) {
		store := contentproxy.NewContentStore(contentapi.NewContentClient(connection))
		var count atomic.Uint64
		nameOf := func(number uint64) string {
			return fmt.Sprintf("%s-n%d", testsuite.Name(ctx), number)
		}
		wrap := func(ctx context.Context, isShared bool) (context.Context, func(context.Context) error, error) {
			name := nameOf(count.Add(1))
			ctx = namespaces.WithNamespace(ctx, name)
			if err := label(ctx, spaces, name, isShared); err != nil {
				return nil, nil, err
			}
			lease, err := manager.Create(ctx, leases.WithRandomID())
			if err != nil {
				return nil, nil, err
			}
			release := func(ctx context.Context) error { return manager.Delete(ctx, lease) }
			return leases.WithLease(ctx, lease.ID), release, nil
		}
		empty := func() error {
			for number := uint64(1); number <= count.Load(); number++ {
				if err := removeAll(namespaces.WithNamespace(ctx, nameOf(number)), store); err != nil {
					return err
				}
			}
			return nil
		}
		return testsuite.SetContextWrapper(ctx, wrap), store, empty, nil
	}
}

// label makes a namespace whose content is, or is not, to be seen from the others.
func label(ctx context.Context, spaces namespacesapi.NamespacesClient, name string, isShared bool) error {
	marks := map[string]string{labels.LabelSharedNamespace: ""}
	if isShared {
		marks[labels.LabelSharedNamespace] = "true"
	}
	space := &namespacesapi.Namespace{Name: name, Labels: marks}
	_, err := spaces.Create(ctx, &namespacesapi.CreateNamespaceRequest{Namespace: space})
	if !errdefs.IsAlreadyExists(errgrpc.ToNative(err)) {
		return err
	}
	_, err = spaces.Update(ctx, &namespacesapi.UpdateNamespaceRequest{Namespace: space})
	return err
}

// removeAll ends what is being written and removes what is there.
func removeAll(ctx context.Context, store content.Store) error {
	statuses, err := store.ListStatuses(ctx)
	if err != nil {
		return fmt.Errorf("failed to list what is being written: %w", err)
	}
	for _, status := range statuses {
		if err := store.Abort(ctx, status.Ref); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("failed to abort %s: %w", status.Ref, err)
		}
	}
	return store.Walk(ctx, func(info content.Info) error {
		if err := store.Delete(ctx, info.Digest); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("failed to delete %s: %w", info.Digest, err)
		}
		return nil
	})
}
