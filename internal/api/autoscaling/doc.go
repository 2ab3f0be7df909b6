// Package autoscaling holds the kinds of the API group autoscaling: the HorizontalPodAutoscaler in its versions v1 and v2.
// One file is one kind; it knows nothing but the API types and the packages that check and print them.
package autoscaling
