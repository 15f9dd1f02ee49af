module hawker/test-vm/tools/crictl

go 1.23.0
