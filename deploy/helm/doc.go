// Package helm tests the Helm chart: what the example values render to is held against Kubernetes'
// own schemas and against our rules for what runs in a cluster. It has no code of its own.
package helm
