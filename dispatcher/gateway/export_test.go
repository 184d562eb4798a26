package gateway

// Paths is the number of paths that the gateway routes.
func Paths() int {
	paths := map[string]bool{}
	for _, r := range (&gateway{}).routes() {
		paths[r.path] = true
	}
	return len(paths)
}
