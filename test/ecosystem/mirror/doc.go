// Mirror says back what it is asked, over HTTP, HTTPS and UDP: what network tests need on the other side, and busybox cannot do. It also refuses what a webhook
// is asked for, and serves an API group in which everything is an echo.
//
//	mirror [-http :8080] [-udp :8081] [-https :8443 -cert FILE -key FILE]
//	mirror -ask ADDRESS [-times N]    # asks a mirror's UDP port, each time from another port, and prints the answers
package main
