package intake

// Mark says that a line may hold a job.
func (l *Lines) Mark(of Line) {
	if n := l.find(of); n != nil {
		n.marked = true
	}
}
