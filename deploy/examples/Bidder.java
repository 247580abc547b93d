import static java.nio.charset.StandardCharsets.*;

import java.io.*;
import java.net.*;
import java.nio.ByteBuffer;
import java.nio.channels.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.regex.*;
import java.util.stream.IntStream;

/** A bidder's client of the sidecar in Java; README.md explains it.
 * {@code java Bidder ADDRESS [TIMEOUT_MS [IDLE_MS]]}
 * Needs JDK 17 and no library. It implements HTTP on channels, because java.net.http does not support Unix sockets. */
public final class Bidder {
    /** The sidecar's answer for one token; uid is null unless the status is SUCCESS. */
    record Verdict(String status, String uid) {}

    /** Holds the pool of connections. Use one per process; it is safe for concurrent use. */
    static final class SidecarClient {
        // These values never contain escapes. For anything more, use the bidder's JSON library.
        private static final Pattern FIELD = Pattern.compile("\"(status|uid)\"\\s*:\\s*(?:\"([^\"\\\\]*)\"|null)");
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

        /** Returns the verdicts for a bid request's tokens, in order. Never throws, and returns within the timeout. */
        List<Verdict> decrypt(String domain, List<String> tokens) {
            long deadline = System.nanoTime() + timeoutNanos; // covers connecting, both attempts and the response body
            List<String> requests = tokens.stream()
                    .map(token -> "{\"token\":" + quoted(token) + ",\"domain\":" + quoted(domain) + "}").toList();
            try {
                String answer = requests.size() == 1 ? post("/decrypt", requests.get(0), deadline)
                        : post("/decrypt/batch", "{\"requests\":[" + String.join(",", requests) + "]}", deadline);
                List<String> statuses = new ArrayList<>(), uids = new ArrayList<>();
                for (Matcher m = FIELD.matcher(answer); m.find(); ) {
                    (m.group(1).equals("uid") ? uids : statuses).add(m.group(2));
                }
                return IntStream.range(0, tokens.size())
                        .mapToObj(i -> new Verdict(statuses.get(i), uids.get(i))).toList();
            } catch (IOException | RuntimeException e) { // with real traffic, count by reason
                System.err.println("no verdict: " + (System.nanoTime() < deadline ? e.getMessage() : "timeout"));
                return Collections.nCopies(tokens.size(), new Verdict("NO_VERDICT", null));
            }
        }

        private String post(String path, String json, long deadline) throws IOException {
            String head = "POST " + path + " HTTP/1.1\r\nHost: " + host + "\r\nContent-Type: application/json\r\n"
                    + "Content-Length: " + json.getBytes(UTF_8).length + "\r\n\r\n";
            byte[] request = (head + json).getBytes(UTF_8);
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

    /** Takes bid requests from stdin, a line each: domain or nothing, then tokens, with tabs between them. */
    public static void main(String[] args) throws IOException {
        SidecarClient client = new SidecarClient(args[0], args.length > 1 ? Long.parseLong(args[1]) : 5,
                args.length > 2 ? Long.parseLong(args[2]) : 60_000);
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, UTF_8));
        for (String line; (line = lines.readLine()) != null; ) {
            List<String> fields = Arrays.asList(line.split("\t", -1));
            String domain = fields.get(0).isEmpty() ? null : fields.get(0);
            for (Verdict verdict : client.decrypt(domain, fields.subList(1, fields.size()))) {
                System.out.println(verdict.status + " " + (verdict.uid == null ? "-" : verdict.uid));
            }
        }
        System.exit(0); // the timer's thread would keep the process running
    }
}
