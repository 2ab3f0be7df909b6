// Package resourceclaim keeps the claims to devices (KEP-4381): it makes those that pods want from templates, takes back the reservations of pods
// that are done, gives devices back that nobody has reserved any more, and deletes the claims that it made. Allocation is the scheduler's business.
//
// decidePod and decideClaim say what to do; the Controller does it.
package resourceclaim
