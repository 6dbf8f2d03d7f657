// Command image builds the container image of leaky without a daemon: one static binary on
// nothing, for the user 65532. What goes in is the binary alone, so that the same binary gives
// the same image, byte by byte.
package main
