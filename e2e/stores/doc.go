// Package stores starts the whole product on each form of a store that docs/configuration.md has,
// end to end. It is not part of the product.
package stores
