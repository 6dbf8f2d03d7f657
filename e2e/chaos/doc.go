// Package chaos drives calls, purchases and edits of the configuration against a whole running stack
// while stores run out of disk and memory, freeze, fall back to older data, and files are cut, end to
// end. A seed decides what happens and in which order. Its tests take minutes and belong to make
// test-long; it has no code of its own.
package chaos
