// Package body reads the JSON body of a request strictly: exact key names, exact types, and an error
// that names the parameter at fault.
//
// encoding/json alone is too forgiving for a public door: it matches keys without regard to case, lets
// the last of two equal keys win, turns bytes that are not UTF-8 into replacement characters and says
// nothing. [Parse] refuses all of that and bounds nesting; [Fields] and [Value] then hand out typed
// values without reflection.
//
// Previous step of the walk: dispatcher/gateway, which bounds the body's size. Next step:
// dispatcher/gateway/openai and the job doors of dispatcher/gateway. The package never does I/O and
// never logs; its values belong to one goroutine.
package body
