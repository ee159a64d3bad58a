//go:build tools

// Names the programs that are built from this module, so that go.mod keeps what they need. Never compiled.
package tools

import (
	_ "go.etcd.io/etcd/etcdctl/v3"
	_ "go.etcd.io/etcd/server/v3"
)
