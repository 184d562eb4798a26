// Package integration tests the whole system: the import layers, the shape of the code, and the fleet
// as producers and operators see it.
//
// It stands at the end of the walk and is imported by nobody.
package integration
