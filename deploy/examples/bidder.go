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

// Verdict is the sidecar's answer for one token. UID is empty unless Status is SUCCESS; Scope is UID2 or EUID if known.
type Verdict struct {
	Status string `json:"status"`
	UID    string `json:"uid"`
	Scope  string `json:"scope"`
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

// RawIDs returns the raw uids in a bid request to bid with, if any. It never fails and returns within the timeout.
func (c *Client) RawIDs(ctx context.Context, bidRequest []byte) []Verdict {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var answer struct{ IDs []Verdict }
	err := c.post(ctx, "/openrtb", bidRequest, &answer)
	if err == nil && answer.IDs == nil {
		err = errors.New("not a valid answer")
	}
	if err != nil {
		log.Printf("no verdict: %v", err) // with real traffic, count by reason
		return nil
	}
	var ids []Verdict
	failures := map[string]int{}
	for _, verdict := range answer.IDs {
		if verdict.Status == "SUCCESS" {
			ids = append(ids, verdict)
		} else {
			failures[verdict.Status]++
		}
	}
	for status, count := range failures {
		log.Printf("not decrypted: %s %d", status, count)
	}
	return ids
}

// Decrypt returns the verdicts for tokens, in order. It never fails and returns within the timeout.
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
	path, body, answer := "/decrypt", any(requests[0]), any(&verdicts[0])
	if len(requests) > 1 {
		path, body = "/decrypt/batch", map[string][]Request{"requests": requests}
		answer = &struct{ Results *[]Verdict }{&verdicts}
	}
	content, err := json.Marshal(body)
	if err == nil {
		err = c.post(ctx, path, content, answer)
	}
	if err == nil && (len(verdicts) != len(tokens) || verdicts[0].Status == "") {
		err = errors.New("results do not match the tokens")
	}
	return verdicts, err
}

func (c *Client) post(ctx context.Context, path string, body []byte, answer any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.baseURL+path, bytes.NewReader(body))
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
	content, err := io.ReadAll(response.Body) // a connection is reused only after a complete read
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("HTTP %d", response.StatusCode)
	}
	if err == nil && json.Unmarshal(content, answer) != nil {
		err = errors.New("not a valid verdict") // the parser's message could quote the body
	}
	return err
}

// main reads lines from stdin: bid requests in JSON, or a domain or nothing, then tokens, separated by tabs.
func main() {
	client := NewClient(os.Args[1], milliseconds(2, 5), milliseconds(3, 60_000))
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20) // the default of 64 KiB is less than a bid request may have
	for lines.Scan() {
		if bytes.HasPrefix(lines.Bytes(), []byte("{")) {
			var ids []string
			for _, id := range client.RawIDs(context.Background(), lines.Bytes()) {
				ids = append(ids, id.Scope+":"+id.UID)
			}
			fmt.Println(orDash(strings.Join(ids, " ")))
			continue
		}
		fields := strings.Split(lines.Text(), "\t")
		for _, verdict := range client.Decrypt(context.Background(), fields[0], fields[1:]) {
			fmt.Println(verdict.Status, orDash(verdict.UID))
		}
	}
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
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
