package chdb

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"
)

// keepSignals runs f and puts the signal handlers back that were there before. The engine
// replaces the handlers of the signals below whenever a connection is opened (with its
// own, or, told not to, with the default), and Go's runtime needs them: without, a nil
// pointer would end the process instead of panicking, or hang it for minutes.
func keepSignals(f func()) {
	signals := [...]syscall.Signal{syscall.SIGABRT, syscall.SIGSEGV, syscall.SIGILL, syscall.SIGBUS, syscall.SIGSYS, syscall.SIGFPE,
		syscall.SIGTSTP, syscall.SIGTRAP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGURG}
	var before [len(signals)][8]uint64 // struct sigaction of the kernel, at most
	for i, sig := range signals {
		rtSigaction(sig, nil, &before[i])
	}
	f()
	for i, sig := range signals {
		rtSigaction(sig, &before[i], nil)
	}
}

func rtSigaction(sig syscall.Signal, to, from *[8]uint64) {
	const setSize = 8 // bytes of the kernel's sigset_t
	syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(to)), uintptr(unsafe.Pointer(from)), setSize, 0, 0)
}

// closeStdin points standard input at nothing: the engine, made for a command line, reads
// the rows of an INSERT that has none from there, and would wait for a terminal.
func closeStdin() error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	if err := syscall.Dup3(int(null.Fd()), 0, 0); err != nil {
		return fmt.Errorf("redirect standard input: %w", err)
	}
	return nil
}
