package auth

import (
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
)

// Role is what the holder of credentials does in the fleet.
type Role string

// Roles, from the least rights to the most.
const (
	Producer    Role = "producer"    // submits, reads and cancels the jobs of one tenant, whose name the credentials carry
	Console     Role = "console"     // hears of workers and of what JetStream reports, and publishes nothing
	Worker      Role = "worker"      // pulls jobs and writes their records
	Dispatcher  Role = "dispatcher"  // admits jobs of all tenants
	Provisioner Role = "provisioner" // creates, changes, copies and restores streams and consumers
	Keeper      Role = "keeper"      // takes a server that is lost out of the broker's cluster, and nothing else
)

// Roles is every role.
var Roles = []Role{Producer, Console, Worker, Dispatcher, Provisioner, Keeper}

// replyTime is how long a dispatcher may take to answer a request. Cancels take the longest, 30 s. The broker keeps
// the reply subjects of requests so long that are not answered.
const replyTime = 40 * time.Second

// rights are the subjects of one role. {{name()}} is the name in the credentials, as one subject token.
type rights struct {
	publish, subscribe []string
	replies            bool // may answer, once, on the reply subject of a message that it got
}

const api = "$JS.API."

// rightsOf is the least that each role needs. Everything that is not here is refused by the broker.
var rightsOf = map[Role]rights{
	Producer: {
		publish:   []string{"submit.{{name()}}", "cancel.{{name()}}.*", "status.{{name()}}.*"},
		subscribe: []string{"live.{{name()}}.*"},
	},
	// No right to ask JetStream: it answers on whatever reply subject a request names, in its own right.
	Console: {subscribe: []string{subject.AllHeartbeats, subject.AllEvents, "$JS.EVENT.ADVISORY.>"}},
	Worker: {
		publish: append(
			acks(topology.StreamJobs),
			subject.AllOut, subject.AllHeartbeats, subject.AllDead, "bell.*",
			api+"CONSUMER.MSG.NEXT."+topology.StreamJobs+".*", api+"CONSUMER.INFO."+topology.StreamJobs+".*",
			api+"DIRECT.GET."+topology.StreamOut, api+"DIRECT.GET."+topology.StreamOut+".>",
		),
		subscribe: []string{"bell.*", subject.AllCtlCancels, subject.AllCtlPreempt, subject.AllCtlRests, subject.AllCtlDrains},
	},
	Dispatcher: {
		publish: join(
			[]string{subject.AllJobs, subject.AllSched, subject.AllHeld, subject.AllLoads, subject.AllLevels, subject.AllEvents, subject.AllOut, "bell.*", subject.AllCtlCancels, subject.AllCtlPreempt, subject.AllCtlRests, subject.AllCtlDrains},
			acks(topology.StreamJobs), acks(topology.StreamSched),
			each(api+"STREAM.INFO.", streams...),
			each(api+"STREAM.MSG.DELETE.", topology.StreamJobs, topology.StreamSched, topology.StreamDead),
			each(api+"DIRECT.GET.", streams...),
			each(api+"DIRECT.GET.", topology.StreamJobs+".>", topology.StreamOut+".>", topology.StreamSched+".>", topology.StreamDead+".>"),
			[]string{
				api + "CONSUMER.INFO." + topology.StreamJobs + ".*", api + "CONSUMER.LIST." + topology.StreamJobs, api + "CONSUMER.PAUSE." + topology.StreamJobs + ".*",
				api + "CONSUMER.INFO." + topology.StreamSched + "." + topology.ConsumerDue,
				api + "CONSUMER.MSG.NEXT." + topology.StreamSched + "." + topology.ConsumerDue,
			},
		),
		subscribe: []string{subject.AllSubmits, subject.AllCancels, subject.AllStatus, subject.AllLive, subject.AllHeartbeats, subject.AllLoads, subject.AllLevels, "$SRV.>"},
		replies:   true,
	},
	// The snapshots of a backup are acknowledged, and those of a restore sent, on subjects of their own.
	Provisioner: {publish: []string{api + ">", "$JS.SNAPSHOT.ACK.>", "$JS.SNAPSHOT.RESTORE.>", "$SRV.>"}},
	// In the servers' own account, which has no streams.
	Keeper: {publish: []string{api + "SERVER.REMOVE"}},
}

var streams = []string{topology.StreamJobs, topology.StreamOut, topology.StreamSched, topology.StreamDead}

func each(prefix string, tails ...string) []string {
	out := make([]string, len(tails))
	for i, t := range tails {
		out[i] = prefix + t
	}
	return out
}

func join(lists ...[]string) (out []string) {
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

// acks are the acknowledgement subjects of a stream, in the form of nine tokens and in the one with
// domain and account before them.
func acks(stream string) []string {
	return []string{"$JS.ACK." + stream + ".>", "$JS.ACK.*.*." + stream + ".>"}
}

// Inbox is the prefix of the subjects on which the holder of credentials gets its answers; nobody else
// may listen there. That of a producer is the one of contracts/client.Inbox, the others begin with a
// name that no tenant can have.
func Inbox(role Role, name string) string {
	if role == Producer {
		return "_INBOX_" + subject.Escape(name)
	}
	return fmt.Sprintf("_PELTON.%s.%s", role, subject.Escape(name))
}

// permissions is the template that the broker fills in for each holder of the role.
func permissions(role Role) jwt.Permissions {
	r := rightsOf[role]
	inbox := strings.Replace(Inbox(role, "-"), "-", "{{name()}}", 1) + ".>"
	p := jwt.Permissions{}
	p.Pub.Allow.Add(r.publish...)
	if len(r.publish) == 0 {
		p.Pub.Deny.Add(">") // for the broker an empty list allows everything
	}
	p.Sub.Allow.Add(append([]string{inbox}, r.subscribe...)...)
	if r.replies {
		p.Resp = &jwt.ResponsePermission{MaxMsgs: 1, Expires: replyTime}
	}
	return p
}
