package connect

import (
	"context"
	"fmt"
	"io"
	"net/http"
)

// maxRead bounds what is read of a node's document, in bytes.
const maxRead = 32 << 20

// Read returns what a node answers to a GET of a path of its API, as this server itself.
func (c *Connector) Read(ctx context.Context, node, path string) ([]byte, error) {
	w, err := c.wayTo(ctx, node)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.base.JoinPath(path).String(), nil)
	if err != nil {
		return nil, fmt.Errorf("ask node %s: %w", node, err)
	}
	resp, err := w.transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("ask node %s: %w", node, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorText)) // what there is of it
		return nil, fmt.Errorf("node %s answered %s: %s", node, resp.Status, text)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxRead+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer of node %s: %w", node, err)
	}
	if len(data) > maxRead {
		return nil, fmt.Errorf("node %s answers with more than %d bytes", node, maxRead)
	}
	return data, nil
}
