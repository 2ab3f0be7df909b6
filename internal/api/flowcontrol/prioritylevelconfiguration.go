package flowcontrol

import (
	"fmt"
	"math"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

// What a level has if it does not say, and how many queues it may have at most. maxEntropyBits is what a shuffle-sharding deal of a
// hand of queues may need.
const (
	defaultShares           int32 = 30
	defaultHandSize         int32 = 8
	defaultQueues           int32 = 64
	defaultQueueLengthLimit int32 = 50
	maxQueues               int32 = 10 * 1000 * 1000
	maxEntropyBits                = 60
)

func priorityLevelConfiguration() *api.Kind {
	limited, queuing := flowcontrolv1.LimitedPriorityLevelConfiguration{}.SwaggerDoc(), flowcontrolv1.QueuingConfiguration{}.SwaggerDoc()
	return &api.Kind{
		Group:         "flowcontrol.apiserver.k8s.io",
		Kind:          "PriorityLevelConfiguration",
		Resource:      "prioritylevelconfigurations",
		Singular:      "prioritylevelconfiguration",
		Prefix:        "prioritylevelconfigurations",
		Versions:      []api.Version{api.NewVersion[flowcontrolv1.PriorityLevelConfiguration, flowcontrolv1.PriorityLevelConfigurationList]("v1")},
		Hub:           "v1",
		Subresources:  []api.Subresource{api.Status()},
		Resets:        map[string][]string{"": {"status"}, "status": {"metadata", "spec"}},
		HasGeneration: true,
		PrepareForCreate: api.On(func(l *flowcontrolv1.PriorityLevelConfiguration) {
			l.Status = flowcontrolv1.PriorityLevelConfigurationStatus{}
		}),
		PrepareForUpdate: api.OnUpdate(func(l, old *flowcontrolv1.PriorityLevelConfiguration) { l.Status = old.Status }),
		PrepareForStatusUpdate: api.OnUpdate(func(l, old *flowcontrolv1.PriorityLevelConfiguration) {
			l.Spec = old.Spec
			keepMeta(&l.ObjectMeta, &old.ObjectMeta)
		}),
		Default:                  api.On(defaultLevel),
		Validate:                 api.Check(validateLevel),
		ValidateUpdate:           api.CheckUpdate(func(l, _ *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList { return validateLevel(l) }),
		ValidateStatusUpdate:     api.CheckUpdate(func(l, _ *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList { return validateLevelStatus(l) }),
		AllowUnconditionalUpdate: true,
		Columns: api.Columns(
			table.Name(),
			table.Column("Type", table.String, flowcontrolv1.PriorityLevelConfigurationSpec{}.SwaggerDoc()["type"]),
			table.Column("NominalConcurrencyShares", table.String, limited["nominalConcurrencyShares"]),
			table.Column("Queues", table.String, queuing["queues"]),
			table.Column("HandSize", table.String, queuing["handSize"]),
			table.Column("QueueLengthLimit", table.String, queuing["queueLengthLimit"]),
			table.AgeColumn(),
		),
		Row: api.Row(func(l *flowcontrolv1.PriorityLevelConfiguration, now time.Time) []any {
			var shares, queues, hand, length any = table.None, table.None, table.None, table.None
			if x := l.Spec.Limited; x != nil {
				if x.NominalConcurrencyShares != nil {
					shares = int64(*x.NominalConcurrencyShares)
				}
				if q := x.LimitResponse.Queuing; q != nil {
					queues, hand, length = int64(q.Queues), int64(q.HandSize), int64(q.QueueLengthLimit)
				}
			}
			return []any{l.Name, string(l.Spec.Type), shares, queues, hand, length, table.Age(l, now)}
		}),
	}
}

func setInt32(v **int32, to int32) {
	if *v == nil {
		*v = &to
	}
}

func defaultLevel(l *flowcontrolv1.PriorityLevelConfiguration) {
	if e := l.Spec.Exempt; e != nil {
		setInt32(&e.NominalConcurrencyShares, 0)
		setInt32(&e.LendablePercent, 0)
	}
	x := l.Spec.Limited
	if x == nil {
		return
	}
	setInt32(&x.NominalConcurrencyShares, defaultShares)
	setInt32(&x.LendablePercent, 0)
	if q := x.LimitResponse.Queuing; q != nil {
		for _, f := range []struct {
			to    *int32
			value int32
		}{{&q.HandSize, defaultHandSize}, {&q.Queues, defaultQueues}, {&q.QueueLengthLimit, defaultQueueLengthLimit}} {
			if *f.to == 0 {
				*f.to = f.value
			}
		}
	}
}

func validateLevel(l *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	p, s := field.NewPath("spec"), &l.Spec
	var errs field.ErrorList
	exempt := l.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt
	if exempt != (s.Type == flowcontrolv1.PriorityLevelEnablementExempt) {
		errs = append(errs, field.Invalid(p.Child("type"), s.Type, "must be 'Exempt' if and only if `name` is 'exempt'"))
	}
	errs = append(errs, declareLevel(s, p)...)
	switch s.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		if e := s.Exempt; e != nil {
			errs = append(errs, validateShares(e.NominalConcurrencyShares, p.Child("exempt", "nominalConcurrencyShares"))...)
			errs = append(errs, validatePercent(e.LendablePercent, p.Child("exempt", "lendablePercent"))...)
		}
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if s.Limited != nil {
			errs = append(errs, validateLimited(s.Limited, p.Child("limited"))...)
		}
	case "":
	default:
		errs = append(errs, check.OneOf(s.Type, p.Child("type"), flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited)...)
	}
	switch l.Name {
	case flowcontrolv1.PriorityLevelConfigurationNameExempt:
		// How many shares the exempt level lends is the administrator's to say.
		if s.Type != flowcontrolv1.PriorityLevelEnablementExempt || s.Limited != nil {
			errs = append(errs, field.Invalid(p, check.Rendered(*s), "spec of 'exempt' except the 'spec.exempt' field must equal the fixed value"))
		}
	case flowcontrolv1.PriorityLevelConfigurationNameCatchAll:
		if !apiequality.Semantic.DeepEqual(*s, catchAllLevel()) {
			errs = append(errs, field.Invalid(p, check.Rendered(*s), "spec of 'catch-all' must equal the fixed value"))
		}
	}
	return errs
}

// declareLevel wants the parts that go with the type, and no others.
func declareLevel(s *flowcontrolv1.PriorityLevelConfigurationSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	limited := s.Type == flowcontrolv1.PriorityLevelEnablementLimited
	if s.Exempt != nil && s.Type != flowcontrolv1.PriorityLevelEnablementExempt {
		errs = append(errs, field.Forbidden(p.Child("exempt"), ""))
	}
	switch {
	case limited && s.Limited == nil:
		errs = append(errs, field.Required(p.Child("limited"), ""))
	case !limited && s.Limited != nil:
		errs = append(errs, field.Forbidden(p.Child("limited"), ""))
	}
	if s.Type == "" {
		errs = append(errs, field.Required(p.Child("type"), ""))
	}
	if s.Limited != nil {
		r, response := &s.Limited.LimitResponse, p.Child("limited", "limitResponse")
		queue := r.Type == flowcontrolv1.LimitResponseTypeQueue
		switch {
		case queue && r.Queuing == nil:
			errs = append(errs, field.Required(response.Child("queuing"), ""))
		case !queue && r.Queuing != nil:
			errs = append(errs, field.Forbidden(response.Child("queuing"), ""))
		}
		if r.Type == "" {
			errs = append(errs, field.Required(response.Child("type"), ""))
		}
	}
	return check.Declared(errs)
}

func validateLevelStatus(l *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	types := make([]flowcontrolv1.PriorityLevelConfigurationConditionType, len(l.Status.Conditions))
	for i := range types {
		types[i] = l.Status.Conditions[i].Type
	}
	return validateConditions(types)
}

// catchAllLevel is the one spec that the level "catch-all" may have.
func catchAllLevel() flowcontrolv1.PriorityLevelConfigurationSpec {
	return flowcontrolv1.PriorityLevelConfigurationSpec{
		Type: flowcontrolv1.PriorityLevelEnablementLimited,
		Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
			NominalConcurrencyShares: new(int32(5)), LendablePercent: new(int32(0)),
			LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
		},
	}
}

// MandatoryLevels returns the levels that a server assumes even where they are not stored, made afresh.
func MandatoryLevels() []*flowcontrolv1.PriorityLevelConfiguration {
	return []*flowcontrolv1.PriorityLevelConfiguration{
		{ObjectMeta: metav1.ObjectMeta{Name: flowcontrolv1.PriorityLevelConfigurationNameExempt}, Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
			Type:   flowcontrolv1.PriorityLevelEnablementExempt,
			Exempt: &flowcontrolv1.ExemptPriorityLevelConfiguration{NominalConcurrencyShares: new(int32(0)), LendablePercent: new(int32(0))},
		}},
		{ObjectMeta: metav1.ObjectMeta{Name: flowcontrolv1.PriorityLevelConfigurationNameCatchAll}, Spec: catchAllLevel()},
	}
}

func validateShares(n *int32, p *field.Path) field.ErrorList {
	if n != nil && *n < 0 {
		return field.ErrorList{field.Invalid(p, *n, "must be a non-negative integer")}
	}
	return nil
}

func validatePercent(n *int32, p *field.Path) field.ErrorList {
	if n != nil && (*n < 0 || *n > 100) {
		return field.ErrorList{field.Invalid(p, *n, "must be between 0 and 100, inclusive")}
	}
	return nil
}

func validateLimited(x *flowcontrolv1.LimitedPriorityLevelConfiguration, p *field.Path) field.ErrorList {
	errs := validateShares(x.NominalConcurrencyShares, p.Child("nominalConcurrencyShares"))
	response := p.Child("limitResponse")
	switch queuing := response.Child("queuing"); x.LimitResponse.Type {
	case flowcontrolv1.LimitResponseTypeReject, "":
	case flowcontrolv1.LimitResponseTypeQueue:
		if x.LimitResponse.Queuing != nil {
			errs = append(errs, validateQueuing(x.LimitResponse.Queuing, queuing)...)
		}
	default:
		errs = append(errs, check.OneOf(x.LimitResponse.Type, response.Child("type"), flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject)...)
	}
	errs = append(errs, validatePercent(x.LendablePercent, p.Child("lendablePercent"))...)
	if b := x.BorrowingLimitPercent; b != nil && *b < 0 {
		errs = append(errs, field.Invalid(p.Child("borrowingLimitPercent"), *b, "if specified, must be a non-negative integer"))
	}
	return errs
}

func validateQueuing(q *flowcontrolv1.QueuingConfiguration, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if q.QueueLengthLimit <= 0 {
		errs = append(errs, field.Invalid(p.Child("queueLengthLimit"), q.QueueLengthLimit, "must be positive"))
	}
	switch queues := p.Child("queues"); {
	case q.Queues <= 0:
		errs = append(errs, field.Invalid(queues, q.Queues, "must be positive"))
	case q.Queues > maxQueues:
		errs = append(errs, field.Invalid(queues, q.Queues, fmt.Sprintf("must not be greater than %d", maxQueues)))
	}
	switch hand := p.Child("handSize"); {
	case q.HandSize <= 0:
		errs = append(errs, field.Invalid(hand, q.HandSize, "must be positive"))
	case q.HandSize > q.Queues:
		errs = append(errs, field.Invalid(hand, q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues)))
	case entropyBits(q.Queues, q.HandSize) > maxEntropyBits:
		errs = append(errs, field.Invalid(hand, q.HandSize, fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues, q.HandSize, maxEntropyBits)))
	}
	return errs
}

// entropyBits is how many random bits it takes to deal a hand from the queues, in order and without putting back.
func entropyBits(queues, hand int32) int {
	deals := 1.0
	for i := range hand {
		deals *= float64(queues - i)
		if deals > math.MaxUint64 {
			return maxEntropyBits + 1
		}
	}
	return int(math.Ceil(math.Log2(deals)))
}
