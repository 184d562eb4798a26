package scaler

import (
	"context"
	"crypto/tls"
	"math"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// What is measured: workers, or what the measure in a trigger's metadata says. The jobs that dispatchers hold back are in
// no consumer of the broker's, and whether the queue is open, 1, or paused, 0, is not seen in the number of those that wait.
const (
	metric = "pelton-workers"
	held   = "pelton-held-jobs"
	open   = "pelton-queue-open"
)

func metricOf(ref *Ref) string {
	switch ref.Metadata["measure"] {
	case "held":
		return held
	case "open":
		return open
	}
	return metric
}

// Server answers KEDA for the models that a [Watch] looks at. The metadata "model" of a scaled object says
// which one.
type Server struct{ watch *Watch }

// NewServer makes one.
func NewServer(w *Watch) *Server { return &Server{watch: w} }

// Serve answers on l until ctx ends; tls may be nil.
func (s *Server) Serve(ctx context.Context, l net.Listener, security *tls.Config) error {
	creds := insecure.NewCredentials()
	if security != nil {
		creds = credentials.NewTLS(security)
	}
	g := grpc.NewServer(grpc.Creds(creds), grpc.ForceServerCodec(codec{}), grpc.MaxRecvMsgSize(64<<10), grpc.MaxConcurrentStreams(100),
		grpc.ConnectionTimeout(10*time.Second), grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 10 * time.Minute, Time: time.Minute}))
	g.RegisterService(&service, s)
	stop := context.AfterFunc(ctx, g.Stop)
	defer stop()
	if err := g.Serve(l); err != nil && ctx.Err() == nil {
		return err
	}
	return ctx.Err()
}

// service is what a generator would have written.
var service = grpc.ServiceDesc{
	ServiceName: "externalscaler.ExternalScaler",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{
		{MethodName: "IsActive", Handler: unary("IsActive", func() *Ref { return new(Ref) }, (*Server).isActive)},
		{MethodName: "GetMetricSpec", Handler: unary("GetMetricSpec", func() *Ref { return new(Ref) }, (*Server).spec)},
		{MethodName: "GetMetrics", Handler: unary("GetMetrics", func() *ask { return new(ask) }, (*Server).measure)},
	},
	Streams: []grpc.StreamDesc{{StreamName: "StreamIsActive", Handler: streamActive, ServerStreams: true}},
}

// unary makes the handler of a method.
func unary[In, Out message](name string, in func() In, do func(*Server, In) (Out, error)) grpc.MethodHandler {
	return func(srv any, ctx context.Context, decode func(any) error, between grpc.UnaryServerInterceptor) (any, error) {
		m := in()
		if err := decode(m); err != nil {
			return nil, err
		}
		handle := func(_ context.Context, req any) (any, error) { return do(srv.(*Server), req.(In)) }
		if between == nil {
			return handle(ctx, m)
		}
		return between(ctx, m, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/externalscaler.ExternalScaler/" + name}, handle)
	}
}

// of is what is planned for the model of a scaled object.
func (s *Server) of(ref *Ref) (Decision, error) {
	model := ref.Metadata["model"]
	if model == "" {
		return Decision{}, status.Errorf(codes.InvalidArgument, "the trigger's metadata lacks model: name the model of the pool")
	}
	d, ok := s.watch.Decision(model)
	if !ok {
		return d, status.Errorf(codes.Unavailable, "no dispatcher has answered lately: nothing is known of %q", model)
	}
	return d, nil
}

func (s *Server) isActive(ref *Ref) (*active, error) {
	d, err := s.of(ref)
	return &active{d.Active}, err
}

func (s *Server) spec(ref *Ref) (*spec, error) {
	if ref.Metadata["model"] == "" {
		_, err := s.of(ref)
		return nil, err
	}
	return &spec{metricOf(ref)}, nil
}

func (s *Server) measure(m *ask) (*measure, error) {
	d, err := s.of(&m.ref)
	value := math.Max(0, d.Workers)
	name := metricOf(&m.ref)
	switch {
	case name == held:
		value = float64(d.Held)
	case name == open && d.Paused:
		value = 0
	case name == open:
		value = 1
	}
	return &measure{name, value}, err
}

// streamActive says at once when a model is needed or not any more.
func streamActive(srv any, stream grpc.ServerStream) error {
	s, ref := srv.(*Server), new(Ref)
	if err := stream.RecvMsg(ref); err != nil {
		return err
	}
	for said, first := false, true; ; {
		looked := s.watch.Looked() // before the decision, so that no look is missed
		d, err := s.of(ref)
		if status.Code(err) == codes.InvalidArgument {
			return err
		}
		if err == nil && (first || d.Active != said) {
			said, first = d.Active, false
			if err := stream.SendMsg(&active{said}); err != nil {
				return err
			}
		}
		select {
		case <-looked:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}
