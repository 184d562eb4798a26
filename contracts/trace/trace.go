// Package trace lets whoever reports to optional funcs call them without asking first.
//
// It stands beside the walk: dispatcher, worker and ops/residence report what happens to a struct of funcs, of
// which ops/metrics sets those that it counts.
package trace

import "reflect"

// Full is a copy of t, a struct of funcs without results, in which those that are nil do nothing. A nil t has none.
func Full[T any](t *T) *T {
	full := new(T)
	if t != nil {
		*full = *t
	}
	v := reflect.ValueOf(full).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.IsNil() {
			f.Set(reflect.MakeFunc(f.Type(), func([]reflect.Value) []reflect.Value { return nil }))
		}
	}
	return full
}
