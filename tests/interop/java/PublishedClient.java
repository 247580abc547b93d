import com.uid2.client.BidstreamClient;
import com.uid2.client.DecryptionResponse;
import com.uid2.client.IdentityMapClient;
import com.uid2.client.IdentityMapInput;
import com.uid2.client.IdentityMapV3Client;
import com.uid2.client.IdentityMapV3Input;
import com.uid2.client.IdentityTokens;
import com.uid2.client.PublisherUid2Client;
import com.uid2.client.RefreshResponse;
import com.uid2.client.SharingClient;
import com.uid2.client.TokenGenerateInput;
import com.uid2.client.TokenGenerateResponse;
import com.uid2.client.TokenRefreshResponse;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/** Calls the published SDK for Java: each line on stdin is a call, its fields separated by tabs, and gives one line. */
final class PublishedClient {
    private final BidstreamClient bidstream;
    private final SharingClient sharing;
    private final PublisherUid2Client publisher;
    private final IdentityMapClient map;
    private final IdentityMapV3Client mapV3;

    private PublishedClient(String url, String apiKey, String clientSecret) {
        bidstream = new BidstreamClient(url, apiKey, clientSecret);
        sharing = new SharingClient(url, apiKey, clientSecret);
        publisher = new PublisherUid2Client(url, apiKey, clientSecret);
        map = new IdentityMapClient(url, apiKey, clientSecret);
        mapV3 = new IdentityMapV3Client(url, apiKey, clientSecret);
    }

    /** Arguments: URL, API key, client secret. */
    public static void main(String[] arguments) throws IOException {
        PublishedClient client = new PublishedClient(arguments[0], arguments[1], arguments[2]);
        PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            out.println(client.answer(line.split("\t", -1)).replace('\n', ' '));
        }
    }

    private String answer(String[] call) {
        try {
            switch (call[0]) {
                case "refresh bidstream":
                    return describe(bidstream.refresh());
                case "refresh sharing":
                    return describe(sharing.refresh());
                case "decrypt":
                    return describe(bidstream.decryptTokenIntoRawUid(call[1], call[2].isEmpty() ? null : call[2]));
                case "decrypt shared":
                    return describe(sharing.decryptTokenIntoRawUid(call[1]));
                case "encrypt":
                    return sharing.encryptRawUidIntoToken(call[1]).getEncryptedData();
                case "generate":
                    return describe(publisher.generateTokenResponse(user(call)));
                case "refresh token":
                    return describe(publisher.refreshToken(IdentityTokens.fromJsonString(call[1])));
                case "map":
                    return mapAll(call[1], Arrays.asList(call).subList(2, call.length));
                case "map v3":
                    return mapAllV3(call[1], Arrays.asList(call).subList(2, call.length));
                default:
                    throw new IllegalArgumentException(call[0]);
            }
        } catch (RuntimeException error) {
            return "exception\t" + error.getMessage();
        }
    }

    private static TokenGenerateInput user(String[] call) {
        TokenGenerateInput input =
                call[1].equals("email") ? TokenGenerateInput.fromEmail(call[2])
                        : call[1].equals("email_hash") ? TokenGenerateInput.fromHashedEmail(call[2])
                        : call[1].equals("phone") ? TokenGenerateInput.fromPhone(call[2])
                        : TokenGenerateInput.fromHashedPhone(call[2]);
        return call[3].isEmpty() ? input : input.withTransparencyAndConsentString(call[3]);
    }

    private String mapAll(String kind, List<String> identities) {
        IdentityMapInput input =
                kind.equals("email") ? IdentityMapInput.fromEmails(identities)
                        : kind.equals("email_hash") ? IdentityMapInput.fromHashedEmails(identities)
                        : kind.equals("phone") ? IdentityMapInput.fromPhones(identities)
                        : IdentityMapInput.fromHashedPhones(identities);
        Map<String, String> results = new TreeMap<>();
        var response = map.generateIdentityMap(input);
        response.getMappedIdentities().forEach((identity, mapped) -> results.put(identity, mapped.getRawUid()));
        response.getUnmappedIdentities().forEach((identity, unmapped) -> results.put(identity, unmapped.getReason()));
        return join(results);
    }

    private String mapAllV3(String kind, List<String> identities) {
        IdentityMapV3Input input =
                kind.equals("email") ? IdentityMapV3Input.fromEmails(identities)
                        : kind.equals("email_hash") ? IdentityMapV3Input.fromHashedEmails(identities)
                        : kind.equals("phone") ? IdentityMapV3Input.fromPhones(identities)
                        : IdentityMapV3Input.fromHashedPhones(identities);
        Map<String, String> results = new TreeMap<>();
        var response = mapV3.generateIdentityMap(input);
        response.getMappedIdentities().forEach((identity, mapped) -> results.put(
                identity, mapped.getCurrentRawUid() + " " + mapped.getPreviousRawUid() + " " + mapped.getRefreshFrom().getEpochSecond()));
        response.getUnmappedIdentities().forEach((identity, unmapped) -> results.put(identity, unmapped.getReason().name()));
        return join(results);
    }

    private static String join(Map<String, String> results) {
        StringBuilder text = new StringBuilder();
        results.forEach((identity, result) -> text.append(identity).append(" = ").append(result).append('\t'));
        return text.toString().trim();
    }

    private static String describe(RefreshResponse response) {
        return response.isSuccess() ? "success" : "failure\t" + response.getReason();
    }

    private static String describe(DecryptionResponse response) {
        return response.getStatus() + "\t" + response.getUid() + "\t" + response.getSiteId() + "\t" + response.getIdentityType()
                + "\t" + response.getAdvertisingTokenVersion() + "\t" + response.getIsClientSideGenerated();
    }

    private static String describe(TokenGenerateResponse response) {
        return response.isOptout() ? "optout" : "success\t" + response.getIdentityJsonString();
    }

    private static String describe(TokenRefreshResponse response) {
        return response.isOptout() ? "optout" : "success\t" + response.getIdentityJsonString();
    }
}
