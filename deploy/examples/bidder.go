// A bidder's client of the sidecar in Go; README.md explains it.
//
//	bidder-go ADDRESS [TIMEOUT_MS [IDLE_MS]]
//
// Needs Go 1.19 and only the standard library.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

const maxConnections = 64

// Request is one token with the site's domain or the app's bundle id.
type Request struct {
	Token  string `json:"token"`
	Domain string `json:"domain,omitempty"`
}

// Verdict is the sidecar's answer for one token. UID is empty unless Status is SUCCESS.
type Verdict struct {
	Status string `json:"status"`
	UID    string `json:"uid"`
}

// Client holds the pool of connections. Use one per process; it is safe for concurrent use.
type Client struct {
	http    *http.Client
	baseURL string
	timeout time.Duration
}

// NewClient makes a client for http://HOST:PORT or unix:/PATH.
func NewClient(address string, timeout, idle time.Duration) *Client {
	transport := &http.Transport{
		MaxConnsPerHost:     maxConnections,
		MaxIdleConnsPerHost: maxConnections, // with the default of 2, load would open and close connections
		IdleConnTimeout:     idle,
		DisableCompression:  true,
	}
	baseURL := strings.TrimSuffix(address, "/")
	if path := strings.TrimPrefix(address, "unix:"); path != address {
		baseURL = "http://localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
	}
	return &Client{&http.Client{Transport: transport}, baseURL, timeout}
}

// Decrypt returns the verdicts for a bid request's tokens, in order. It never fails and returns within the timeout.
func (c *Client) Decrypt(ctx context.Context, domain string, tokens []string) []Verdict {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	verdicts, err := c.decrypt(ctx, domain, tokens)
	if err == nil {
		return verdicts
	}
	log.Printf("no verdict: %v", err) // with real traffic, count by reason
	verdicts = make([]Verdict, len(tokens))
	for i := range verdicts {
		verdicts[i].Status = "NO_VERDICT"
	}
	return verdicts
}

func (c *Client) decrypt(ctx context.Context, domain string, tokens []string) ([]Verdict, error) {
	requests := make([]Request, len(tokens))
	for i, token := range tokens {
		requests[i] = Request{token, domain}
	}
	verdicts := make([]Verdict, 1)
	var err error
	if len(requests) == 1 {
		err = c.post(ctx, "/decrypt", requests[0], &verdicts[0])
	} else {
		answer := struct{ Results *[]Verdict }{&verdicts}
		err = c.post(ctx, "/decrypt/batch", map[string][]Request{"requests": requests}, &answer)
	}
	if err == nil && (len(verdicts) != len(tokens) || verdicts[0].Status == "") {
		err = errors.New("results do not match the tokens")
	}
	return verdicts, err
}

func (c *Client) post(ctx context.Context, path string, body, answer any) error {
	content, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.baseURL+path, bytes.NewReader(content))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	// Lets the transport retry if the sidecar closed an idle connection. An empty list sends no header.
	request.Header["Idempotency-Key"] = []string{}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	content, err = io.ReadAll(response.Body) // a connection is reused only after a complete read
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("HTTP %d", response.StatusCode)
	}
	if err == nil && json.Unmarshal(content, answer) != nil {
		err = errors.New("not a valid verdict") // the parser's message could quote the body
	}
	return err
}

// main reads bid requests from stdin, one a line: the domain or nothing, then tokens, separated by tabs.
func main() {
	client := NewClient(os.Args[1], milliseconds(2, 5), milliseconds(3, 60_000))
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fields := strings.Split(lines.Text(), "\t")
		for _, verdict := range client.Decrypt(context.Background(), fields[0], fields[1:]) {
			if verdict.UID == "" {
				verdict.UID = "-"
			}
			fmt.Println(verdict.Status, verdict.UID)
		}
	}
}

func milliseconds(argument, otherwise int) time.Duration {
	if len(os.Args) > argument {
		number, err := strconv.Atoi(os.Args[argument])
		if err != nil {
			log.Fatal(err)
		}
		otherwise = number
	}
	return time.Duration(otherwise) * time.Millisecond
}
