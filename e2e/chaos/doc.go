// Package chaos drives calls, purchases and edits of the configuration against a whole running stack
// while stores run out of disk and memory, freeze, fall back to older data, and have their clock moved,
// and files are cut, end to end. A seed decides what happens and in which order: make test runs the
// seeds 0 to 2, make test-long 20 that chance gives. It has no code of its own.
package chaos
