//go:build !linux

package testenv

import "syscall"

// onParentDeath does nothing where the kernel has no such signal: a killed test process
// leaves its servers behind there.
func onParentDeath(*syscall.SysProcAttr, syscall.Signal) {}
