import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import okhttp3.MediaType;
import okhttp3.OkHttpClient;
import okhttp3.Request;
import okhttp3.RequestBody;

/** Sends the same request several times with a client in its default settings, and prints each answer. */
public final class StockClient {
    private StockClient() {}

    /** The arguments: jdk, okhttp, apache4 or apache5; URL; BODY; COUNT. */
    public static void main(String[] args) throws Exception {
        String url = args[1];
        String body = args[2];
        int count = Integer.parseInt(args[3]);
        switch (args[0]) {
            case "jdk" -> jdk(url, body, count);
            case "okhttp" -> okHttp(url, body, count);
            case "apache4" -> apache4(url, body, count);
            case "apache5" -> apache5(url, body, count);
            default -> throw new IllegalArgumentException(args[0]);
        }
        System.exit(0); // without waiting for the threads of pools
    }

    private static void print(int status, String answer) {
        System.out.println(status + " " + answer);
    }

    private static void jdk(String url, String body, int count) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int i = 0; i < count; i++) {
            var request = java.net.http.HttpRequest.newBuilder(URI.create(url))
                    .header("Content-Type", "application/json")
                    .POST(BodyPublishers.ofString(body))
                    .build();
            var answer = client.send(request, BodyHandlers.ofString());
            print(answer.statusCode(), answer.body());
        }
    }

    private static void okHttp(String url, String body, int count) throws Exception {
        OkHttpClient client = new OkHttpClient();
        for (int i = 0; i < count; i++) {
            Request request = new Request.Builder()
                    .url(url)
                    .post(RequestBody.create(body, MediaType.get("application/json")))
                    .build();
            try (var answer = client.newCall(request).execute()) {
                print(answer.code(), answer.body().string());
            }
        }
    }

    private static void apache4(String url, String body, int count) throws Exception {
        try (var client = org.apache.http.impl.client.HttpClients.createDefault()) {
            for (int i = 0; i < count; i++) {
                var request = new org.apache.http.client.methods.HttpPost(url);
                request.setEntity(new org.apache.http.entity.StringEntity(
                        body, org.apache.http.entity.ContentType.APPLICATION_JSON));
                try (var answer = client.execute(request)) {
                    print(answer.getStatusLine().getStatusCode(),
                            org.apache.http.util.EntityUtils.toString(answer.getEntity()));
                }
            }
        }
    }

    private static void apache5(String url, String body, int count) throws Exception {
        try (var client = org.apache.hc.client5.http.impl.classic.HttpClients.createDefault()) {
            for (int i = 0; i < count; i++) {
                var request = new org.apache.hc.client5.http.classic.methods.HttpPost(url);
                request.setEntity(new org.apache.hc.core5.http.io.entity.StringEntity(
                        body, org.apache.hc.core5.http.ContentType.APPLICATION_JSON));
                client.execute(request, answer -> {
                    print(answer.getCode(),
                            org.apache.hc.core5.http.io.entity.EntityUtils.toString(answer.getEntity()));
                    return null;
                });
            }
        }
    }
}
