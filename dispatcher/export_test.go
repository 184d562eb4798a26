package dispatcher

// Serving tells whether a live worker takes jobs of a model, given by name or alias; the empty name is
// the default model.
func (d *Dispatcher) Serving(model string) bool {
	m, err := d.catalog.Find(model)
	return err == nil && d.fleet.Offer(m.Name).Ready > 0
}
