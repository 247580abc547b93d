// A bidder's client of the sidecar in C++; README.md explains it.
//
//     bidder-cpp ADDRESS [TIMEOUT_MS [IDLE_MS]]
//
// Needs C++17, POSIX sockets and no library.
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <iostream>
#include <map>
#include <sstream>
#include <system_error>
#include <vector>

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds, std::string;

// The sidecar's answer for one token: no uid unless the status is SUCCESS; the scope is UID2 or EUID if known.
struct Verdict { string status, uid, scope; };

// Holds one connection. Use one per thread that bids, for the life of the thread.
class SidecarClient {
 public:
  SidecarClient(const string& address, milliseconds timeout, milliseconds idle) : timeout_(timeout), idle_(idle) {
    if (address.rfind("unix:", 0) == 0) {
      sockaddr_un path{AF_UNIX, ""};
      address.copy(path.sun_path, sizeof path.sun_path - 1, 5);
      std::memcpy(&address_, &path, length_ = sizeof path);
      return;
    }
    host_ = address.substr(address.find("//") + 2);
    const auto colon = host_.rfind(':');
    const bool brackets = host_[0] == '[';
    addrinfo* found = nullptr;  // resolved once: a lookup has no deadline
    if (getaddrinfo(host_.substr(brackets, colon - 2 * brackets).c_str(), &host_[colon + 1], nullptr, &found) != 0) {
      throw std::invalid_argument("no such address: " + address);
    }
    std::memcpy(&address_, found->ai_addr, length_ = found->ai_addrlen);
    freeaddrinfo(found);
  }
  ~SidecarClient() { disconnect(); }
  SidecarClient(const SidecarClient&) = delete;
  SidecarClient& operator=(const SidecarClient&) = delete;

  // Returns the raw uids in a bid request to bid with, if any. Never throws, and returns within the timeout.
  std::vector<Verdict> raw_ids(const string& bid_request) {
    std::vector<Verdict> ids;
    std::map<string, int> failures;
    try {
      const string answer = post("/openrtb", bid_request);
      if (answer.find("\"ids\":") == string::npos) throw std::runtime_error("not a valid answer");
      const auto statuses = values(answer, "\"status\":"), uids = values(answer, "\"uid\":");
      const auto scopes = values(answer, "\"scope\":");
      for (std::size_t i = 0; i < statuses.size(); ++i) {
        if (statuses[i] == "SUCCESS") ids.push_back({statuses[i], uids.at(i), scopes.at(i)});
        else ++failures[statuses[i]];
      }
    } catch (const std::exception& error) {
      give_up(error);
    }
    for (const auto& [status, count] : failures) std::cerr << "not decrypted: " << status << ' ' << count << std::endl;
    return ids;
  }

  // Returns the verdicts for tokens, in order. Never throws, and returns within the timeout.
  std::vector<Verdict> decrypt(const string& domain, const std::vector<string>& tokens) {
    string body;
    for (const auto& token : tokens) {
      body += (body.empty() ? "" : ",") + ("{\"token\":" + quoted(token));
      body += domain.empty() ? "}" : ",\"domain\":" + quoted(domain) + "}";
    }
    try {
      const string answer = tokens.size() == 1 ? post("/decrypt", body)
                                               : post("/decrypt/batch", "{\"requests\":[" + body + "]}");
      const auto statuses = values(answer, "\"status\":"), uids = values(answer, "\"uid\":");
      std::vector<Verdict> verdicts;
      for (std::size_t i = 0; i < tokens.size(); ++i) verdicts.push_back({statuses.at(i), uids.at(i), ""});
      return verdicts;
    } catch (const std::exception& error) {
      give_up(error);
      return {tokens.size(), Verdict{"NO_VERDICT", "", ""}};
    }
  }

 private:
  struct Disconnected : std::runtime_error { using std::runtime_error::runtime_error; };

  void give_up(const std::exception& error) {
    disconnect();  // a late answer must not be read as the next one
    std::cerr << "no verdict: " << error.what() << std::endl;  // with real traffic, count by reason
  }

  string post(const string& path, const string& json) {
    deadline_ = Clock::now() + timeout_;  // covers connecting, both attempts and the response body
    const string request = "POST " + path + " HTTP/1.1\r\nHost: " + host_ + "\r\nContent-Type: application/json" +
                           "\r\nContent-Length: " + std::to_string(json.size()) + "\r\n\r\n" + json;
    if (socket_ >= 0 && Clock::now() - last_used_ < idle_) {
      try {
        return ask(request);
      } catch (const Disconnected&) {
        // The sidecar closed the idle connection. Retrying is safe: the answer is the same.
      }
    }
    disconnect();
    socket_ = socket(address_.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    const int on = 1;
    setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // fails on a Unix socket, which does not need it
    const int done = connect(socket_, reinterpret_cast<sockaddr*>(&address_), length_);
    if (done < 0 && errno != EINPROGRESS) throw std::system_error(errno, std::generic_category());
    if (done < 0) wait(POLLOUT);  // a failed connect is reported by the first send
    return ask(request);
  }

  string ask(const string& request) {
    for (std::size_t sent = 0; sent < request.size();) {
      sent += retry(POLLOUT, [&] { return send(socket_, &request[sent], request.size() - sent, MSG_NOSIGNAL); });
    }
    string received;
    std::size_t end_of_head;
    while ((end_of_head = received.find("\r\n\r\n")) == string::npos) receive(received);
    const string head = received.substr(0, end_of_head + 2);
    if (head.rfind("HTTP/1.1 200 ", 0) != 0) throw std::runtime_error(head.substr(0, 12));
    const char* length = strcasestr(head.c_str(), "\r\nContent-Length:");
    if (length == nullptr) throw std::runtime_error("no Content-Length");
    const std::size_t size = end_of_head + 4 + std::atol(length + 17);
    while (received.size() < size) receive(received);
    last_used_ = Clock::now();
    if (strcasestr(head.c_str(), "\r\nConnection: close\r\n") != nullptr) disconnect();
    return received.substr(end_of_head + 4);
  }

  void receive(string& received) const {
    char chunk[16384];
    received.append(chunk, retry(POLLIN, [&] { return recv(socket_, chunk, sizeof chunk, 0); }));
  }

  template <class Call>
  std::size_t retry(short event, Call call) const {
    for (;; wait(event)) {
      const auto done = call();
      if (done > 0) return done;
      if (done == 0) throw Disconnected("closed by the sidecar");
      if (errno != EAGAIN && errno != EINTR) throw Disconnected(std::generic_category().message(errno));
    }
  }

  void wait(short event) const {
    pollfd ready{socket_, event, 0};
    const auto left = std::chrono::ceil<milliseconds>(deadline_ - Clock::now()).count();
    if (left <= 0 || poll(&ready, 1, left) == 0) throw std::runtime_error("timeout");
  }

  void disconnect() {
    if (socket_ >= 0) close(socket_);
    socket_ = -1;
  }

  static string quoted(const string& text) {
    string json = "\"";
    for (const unsigned char c : text) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, c < ' ' || c == '"' || c == '\\' ? "\\u%04x" : "%c", c);
      json += escaped;
    }
    return json + '"';
  }

  // The values of a field given as `"name":`, which never contain escapes. That text is never within a string. For anything more, use the bidder's JSON library.
  static std::vector<string> values(const string& json, const string& field) {
    std::vector<string> values;
    for (std::size_t at = 0; (at = json.find(field, at)) != string::npos;) {
      at = std::min(json.find_first_not_of(' ', at + field.size()), json.size());
      values.push_back(json[at] == '"' ? json.substr(at + 1, json.find('"', at + 1) - at - 1) : "");
    }
    return values;
  }

  const milliseconds timeout_, idle_;
  sockaddr_storage address_{};
  socklen_t length_ = 0;
  string host_ = "localhost";
  int socket_ = -1;
  Clock::time_point last_used_, deadline_;
};

// Reads lines from stdin: bid requests in JSON, or a domain or nothing, then tokens, separated by tabs.
int main(int argc, char** argv) {
  const milliseconds timeout(argc > 2 ? atoi(argv[2]) : 5), idle(argc > 3 ? atoi(argv[3]) : 60'000);
  SidecarClient client(argv[1], timeout, idle);
  for (string line, domain, token; std::getline(std::cin, line);) {
    if (line[0] == '{') {
      string ids;
      for (const auto& id : client.raw_ids(line)) ids += (ids.empty() ? "" : " ") + id.scope + ':' + id.uid;
      std::cout << (ids.empty() ? "-" : ids) << std::endl;
      continue;
    }
    std::istringstream fields(line);
    std::getline(fields, domain, '\t');
    std::vector<string> tokens;
    while (std::getline(fields, token, '\t')) tokens.push_back(token);
    for (const auto& verdict : client.decrypt(domain, tokens)) {
      std::cout << verdict.status << ' ' << (verdict.uid.empty() ? "-" : verdict.uid) << std::endl;
    }
  }
}
