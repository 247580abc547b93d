import static java.nio.charset.StandardCharsets.*;

import java.io.*;
import java.net.*;
import java.nio.ByteBuffer;
import java.nio.channels.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.regex.*;

/** A bidder's client of the sidecar in Java; README.md explains it.
 * {@code java Bidder ADDRESS [TIMEOUT_MS [IDLE_MS]]}
 * Needs JDK 17 and no library. It implements HTTP on channels, because java.net.http does not support Unix sockets. */
public final class Bidder {
    /** The sidecar's answer for one token: uid is null unless the status is SUCCESS, scope is UID2 or EUID if known. */
    record Verdict(String status, String uid, String scope) {}

    /** Holds the pool of connections. Use one per process; it is safe for concurrent use. */
    static final class SidecarClient {
        // These values never contain escapes. For anything more, use the bidder's JSON library.
        private static final Pattern FIELD = Pattern.compile("\"(status|uid|scope)\"\\s*:\\s*(?:\"([^\"\\\\]*)\"|null)");
        private static final Pattern TO_ESCAPE = Pattern.compile("[\"\\\\\\x00-\\x1f]");
        private final BlockingDeque<Connection> pool = new LinkedBlockingDeque<>(64); // most recently used first
        private final ScheduledExecutorService timer = Executors.newSingleThreadScheduledExecutor();
        private final SocketAddress address;
        private final String host;
        private final long timeoutNanos, idleNanos;

        /** Makes a client for http://HOST:PORT or unix:/PATH. */
        SidecarClient(String address, long timeoutMs, long idleMs) {
            URI uri = URI.create(address);
            boolean isUnix = "unix".equals(uri.getScheme());
            this.host = isUnix ? "localhost" : uri.getAuthority();
            this.address = isUnix ? UnixDomainSocketAddress.of(uri.getPath())
                    : new InetSocketAddress(uri.getHost(), uri.getPort());
            this.timeoutNanos = timeoutMs * 1_000_000;
            this.idleNanos = idleMs * 1_000_000;
        }

        /** Returns the raw uids in a bid request to bid with, if any. Never throws, and returns within the timeout. */
        List<Verdict> rawIds(byte[] bidRequest) {
            long deadline = System.nanoTime() + timeoutNanos;
            List<Verdict> ids = new ArrayList<>();
            Map<String, Integer> failures = new TreeMap<>();
            try {
                String answer = post("/openrtb", bidRequest, deadline);
                if (!answer.contains("\"ids\":")) throw new IllegalStateException("not a valid answer");
                for (Verdict verdict : verdicts(answer)) {
                    if (verdict.status.equals("SUCCESS")) ids.add(verdict);
                    else failures.merge(verdict.status, 1, Integer::sum);
                }
            } catch (IOException | RuntimeException e) {
                giveUp(e, deadline);
            }
            failures.forEach((status, count) -> System.err.println("not decrypted: " + status + " " + count));
            return ids;
        }

        /** Returns the verdicts for tokens, in order. Never throws, and returns within the timeout. */
        List<Verdict> decrypt(String domain, List<String> tokens) {
            long deadline = System.nanoTime() + timeoutNanos; // covers connecting, both attempts and the response body
            List<String> requests = tokens.stream()
                    .map(token -> "{\"token\":" + quoted(token) + ",\"domain\":" + quoted(domain) + "}").toList();
            boolean isSingle = requests.size() == 1;
            String body = isSingle ? requests.get(0) : "{\"requests\":[" + String.join(",", requests) + "]}";
            try {
                String path = isSingle ? "/decrypt" : "/decrypt/batch";
                List<Verdict> verdicts = verdicts(post(path, body.getBytes(UTF_8), deadline));
                if (verdicts.size() != tokens.size()) throw new IllegalStateException("not a valid answer");
                return verdicts;
            } catch (IOException | RuntimeException e) {
                giveUp(e, deadline);
                return Collections.nCopies(tokens.size(), new Verdict("NO_VERDICT", null, null));
            }
        }

        private static void giveUp(Exception reason, long deadline) { // with real traffic, count by reason
            System.err.println("no verdict: " + (System.nanoTime() < deadline ? reason.getMessage() : "timeout"));
        }

        private static List<Verdict> verdicts(String answer) {
            Map<String, List<String>> values =
                    Map.of("status", new ArrayList<>(), "uid", new ArrayList<>(), "scope", new ArrayList<>());
            for (Matcher m = FIELD.matcher(answer); m.find(); ) values.get(m.group(1)).add(m.group(2));
            Iterator<String> uids = values.get("uid").iterator(), scopes = values.get("scope").iterator();
            return values.get("status").stream()
                    .map(status -> new Verdict(status, uids.next(), scopes.hasNext() ? scopes.next() : null)).toList();
        }

        private String post(String path, byte[] json, long deadline) throws IOException {
            String head = "POST " + path + " HTTP/1.1\r\nHost: " + host + "\r\nContent-Type: application/json\r\n"
                    + "Content-Length: " + json.length + "\r\n\r\n";
            byte[] request = ByteBuffer.allocate(head.length() + json.length)
                    .put(head.getBytes(US_ASCII)).put(json).array();
            Connection pooled = pool.pollFirst();
            for (; pooled != null && System.nanoTime() - pooled.idleSince > idleNanos; pooled = pool.pollFirst()) {
                pooled.channel.close();
            }
            try {
                if (pooled != null) return exchange(pooled, request, deadline);
            } catch (IOException e) {
                if (System.nanoTime() >= deadline) throw e;
                // The sidecar closed the idle connection. Retrying is safe: the answer is the same.
            }
            return exchange(new Connection(address), request, deadline);
        }

        private String exchange(Connection connection, byte[] request, long deadline) throws IOException {
            // Closing the channel unblocks the call on it, and a late answer cannot be read as the next one.
            Callable<Void> end = () -> { connection.channel.close(); return null; };
            Future<?> alarm = timer.schedule(end, deadline - System.nanoTime(), TimeUnit.NANOSECONDS);
            boolean isKept = false;
            try {
                String answer = connection.ask(address, request);
                isKept = alarm.cancel(false) && connection.keepsAlive && pool.offerFirst(connection);
                return answer;
            } finally {
                if (!isKept) connection.channel.close();
            }
        }

        private static String quoted(String text) {
            return text == null ? "null" : '"' + TO_ESCAPE.matcher(text)
                    .replaceAll(m -> String.format("\\\\u%04x", (int) m.group().charAt(0))) + '"';
        }
    }

    /** HTTP on one socket, as much of it as the sidecar speaks. */
    private static final class Connection {
        final SocketChannel channel;
        private final BufferedReader in;
        boolean keepsAlive;
        long idleSince; // System.nanoTime()

        Connection(SocketAddress address) throws IOException {
            boolean isUnix = address instanceof UnixDomainSocketAddress;
            channel = isUnix ? SocketChannel.open(StandardProtocolFamily.UNIX) : SocketChannel.open();
            if (!isUnix) channel.setOption(StandardSocketOptions.TCP_NODELAY, true);
            in = new BufferedReader(Channels.newReader(channel, ISO_8859_1)); // one char per byte; answers are ASCII
        }

        String ask(SocketAddress address, byte[] request) throws IOException {
            if (!channel.isConnected()) channel.connect(address);
            for (ByteBuffer rest = ByteBuffer.wrap(request); rest.hasRemaining(); ) channel.write(rest);
            String status = readLine();
            int length = 0;
            keepsAlive = true;
            for (String field = readLine(); !field.isEmpty(); field = readLine()) {
                if (field.startsWith("content-length:")) length = Integer.parseInt(field.split(": *")[1]);
                keepsAlive &= !field.equals("connection: close");
            }
            char[] body = new char[length];
            for (int end = 0, size; end < length; end += size) {
                if ((size = in.read(body, end, length - end)) < 0) throw new EOFException("closed by the sidecar");
            }
            idleSince = System.nanoTime();
            if (!status.startsWith("http/1.1 200 ")) throw new IllegalStateException(status);
            return new String(body);
        }

        private String readLine() throws IOException {
            String line = in.readLine();
            if (line == null) throw new EOFException("closed by the sidecar");
            return line.toLowerCase(Locale.ROOT);
        }
    }

    /** Reads lines from stdin: bid requests in JSON, or a domain or nothing, then tokens, separated by tabs. */
    public static void main(String[] args) throws IOException {
        SidecarClient client = new SidecarClient(args[0], args.length > 1 ? Long.parseLong(args[1]) : 5,
                args.length > 2 ? Long.parseLong(args[2]) : 60_000);
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, UTF_8));
        for (String line; (line = lines.readLine()) != null; ) {
            if (line.startsWith("{")) {
                List<String> ids = client.rawIds(line.getBytes(UTF_8)).stream()
                        .map(id -> id.scope + ":" + id.uid).toList();
                System.out.println(ids.isEmpty() ? "-" : String.join(" ", ids));
                continue;
            }
            List<String> fields = Arrays.asList(line.split("\t", -1));
            String domain = fields.get(0).isEmpty() ? null : fields.get(0);
            for (Verdict verdict : client.decrypt(domain, fields.subList(1, fields.size()))) {
                System.out.println(verdict.status + " " + (verdict.uid == null ? "-" : verdict.uid));
            }
        }
        System.exit(0); // the timer's thread would keep the process running
    }
}
