package contracts

// Event says that a part of the overload control moved. Dispatchers publish it on slo.event.<kind>.
type Event struct {
	V          int    `msgpack:"v" json:"v"`
	At         int64  `msgpack:"at" json:"at"` // Unix milliseconds
	Dispatcher string `msgpack:"dispatcher" json:"dispatcher"`
	Kind       string `msgpack:"kind" json:"kind"` // ladder, or breaker's: broker, worker, class
	Of         string `msgpack:"of" json:"of"`     // the model, the part of the broker, the worker, or model and class
	From       string `msgpack:"from" json:"from"` // of a ladder the rung below which jobs are let through, of a breaker its state
	To         string `msgpack:"to" json:"to"`
	Reason     string `msgpack:"reason" json:"reason"`
}
