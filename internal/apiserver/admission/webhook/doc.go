// Package webhook is admission by those who are asked over HTTPS: MutatingWebhookConfiguration and ValidatingWebhookConfiguration.
//
// The configuration is what the store holds at the moment of the request. Mutating webhooks are called one after the other, by the
// name of their configuration and then in its order, each with what those before made of the object; if one changes it, all mutators
// run once more, in which only those webhooks take part that ask for it. Validating webhooks are called all at once.
//
// Package match decides who is concerned, package expression evaluates match conditions, and internal/apiserver/webhook makes the
// call; here is what is said (AdmissionReview v1 or v1beta1), what an answer means, and what happens when there is none.
package webhook
