import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.nio.file.Path;

class Calls {
    public static void main(String[] arguments) throws Exception {
        var lines = new BufferedReader(new InputStreamReader(System.in));
        var client = HttpClient.newHttpClient();
        while (lines.readLine() != null) {
            var answer = Consumer.call(client, Path.of(arguments[0]), URI.create(arguments[1]));
            System.out.println(answer.statusCode());
        }
    }
}
