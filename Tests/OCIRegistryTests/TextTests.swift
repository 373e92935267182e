import HTTPTransport
import OCIModel
import Testing

@testable import OCIRegistry

/// Headers and their grammars.
@Suite struct TextTests {
    @Test func aBearerChallengeIsParsed() {
        let text =
            #"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#
        #expect(
            Challenge.parse([text]) == [
                Challenge(
                    scheme: "bearer",
                    parameters: [
                        "realm": "https://auth.example/token",
                        "service": "registry.example",
                        "scope": "repository:a/b:pull,push",
                    ]
                )
            ]
        )
    }

    @Test func severalChallengesAreParsed() {
        let parsed = Challenge.parse([
            #"Basic realm="a \"quoted\" one", , BEARER Realm=https://x/t , error = "invalid_token""#,
            "Negotiate",
        ])
        #expect(parsed.map(\.scheme) == ["basic", "bearer", "negotiate"])
        #expect(parsed[0].parameters == ["realm": #"a "quoted" one"#])
        #expect(parsed[1].parameters == ["realm": "https://x/t", "error": "invalid_token"])
    }

    @Test(arguments: ["", ",,,", "=", "\"", "Bearer realm=\"unfinished", "Bearer =x", "\u{0}\u{1}", "é=è, =, ;"])
    func oddChallengesEndSomewhere(_ text: String) {
        #expect(Challenge.parse([text]).count <= 3)
    }

    @Test func theNextLinkIsFound() {
        #expect(LinkHeader.next([#"</v2/a/tags/list?last=x&n=5>; rel="next""#]) == "/v2/a/tags/list?last=x&n=5")
        #expect(LinkHeader.next([#"<a>; rel=prev, <b,c;d>; title="x, y"; rel="last next""#]) == "b,c;d")
        #expect(LinkHeader.next(["<a>;rel=NEXT;x"]) == "a")
        #expect(LinkHeader.next(["<a>; rel=prev", "<b>;rel=next"]) == "b")
        for none in ["", "a", "<a", "<a>", "<a>; rel=nextish", "<a>; rel", "rel=next"] {
            #expect(LinkHeader.next([none]) == nil)
        }
    }

    @Test func retryAfterIsSecondsOrADate() {
        #expect(RetryAfter.seconds("120", now: 0) == 120)
        #expect(RetryAfter.seconds("0", now: 0) == 0)
        #expect(RetryAfter.seconds("99999999999999999999", now: 0) == 1e9)
        let now: Int64 = 784_111_777
        for date in [
            "Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994",
        ] {
            #expect(RetryAfter.parseDate(date) == now)
            #expect(RetryAfter.seconds(date, now: now - 30) == 30)
            #expect(RetryAfter.seconds(date, now: now + 30) == 0)
        }
        #expect(RetryAfter.parseDate("Thu, 29 Feb 2024 00:00:00 GMT") == 1_709_164_800)
        #expect(RetryAfter.parseDate("Tue, 19 Jan 2038 03:14:08 GMT") == 2_147_483_648)
        for none in [
            "", "soon", "-5", "1.5", "Sun, 06 Nov 1994", "Sun, 06 Foo 1994 08:49:37 GMT", "08:49:37", "1:2:3:4",
        ] {
            #expect(RetryAfter.seconds(none, now: 0) == nil)
        }
    }

    @Test func contentRangesAreParsed() throws {
        let known = try #require(ContentRange("bytes 5-9/100"))
        #expect((known.first, known.last, known.complete) == (5, 9, 100))
        let open = try #require(ContentRange("Bytes 0-0/*"))
        #expect((open.first, open.last, open.complete) == (0, 0, nil))
        for none in ["", "bytes */100", "bytes 9-5/100", "bytes 5-9/9", "bytes 5-9", "5-9/100", "bytes -5-9/100"] {
            #expect(ContentRange(none) == nil)
        }
    }

    @Test func theTokenRequestNamesServiceAndScope() throws {
        let registry = try #require(HTTPURL("https://registry.example/v2/"))
        func url(_ parameters: [String: String]) throws -> String {
            let challenge = Challenge(scheme: "bearer", parameters: parameters)
            let realm = try TokenRequest.realm(challenge, registry: registry)
            return try TokenRequest.url(challenge, scope: "repository:a:pull", realm: realm, registry: registry).string
        }
        #expect(
            try url(["realm": "https://auth.example/token", "service": "a b&c", "scope": "repository:a:pull x:y:z"])
                == "https://auth.example/token?service=a%20b%26c&scope=repository:a:pull&scope=x:y:z"
        )
        #expect(
            try url(["realm": "https://auth.example/token?x=1"])
                == "https://auth.example/token?x=1&scope=repository:a:pull"
        )
        #expect(throws: AttemptFailure.self) { try url([:]) }
        #expect(throws: AttemptFailure.self) { try url(["realm": "/token"]) }
    }

    @Test func signedURLsSayHowLongTheyHold() throws {
        // 2024-01-31T12:00:00Z
        let now: Int64 = 1_706_702_400
        func life(_ query: String) throws -> Double? {
            SignedURL.life(of: try #require(HTTPURL("https://s.example/b?\(query)")), at: now)
        }
        #expect(try life("X-Amz-Date=x&X-Amz-Expires=1200&y=z") == 1200)
        #expect(try life("X-Amz-Date=20240131T115000Z&X-Amz-Expires=1200") == 600)
        #expect(try life("X-Amz-Date=20240131T120500Z&X-Amz-Expires=1200") == 1200)
        #expect(try life("X-Amz-Date=20240130T120000Z&X-Amz-Expires=1200") == 0)
        #expect(try life("x-goog-expires=3") == 3)
        #expect(try life("X-Goog-Date=20240131T115959Z&X-Goog-Expires=3") == 2)
        #expect(try life("Expires=\(now + 60)&Signature=x") == 60)
        #expect(try life("md5=x&expires=\(now + 3)") == 3)
        #expect(try life("e=\(now + 7)") == 7)
        #expect(try life("exp=\(now * 1000 + 9000)") == 9)
        #expect(try life("se=2024-01-31T12%3A01%3A00Z&sig=x") == 60)
        #expect(try life("hdnts=exp=\(now + 5)~acl=/*~hmac=x") == 5)
        #expect(try life("Expires=\(now - 10)") == 0)
        #expect(try life("Expires=soon") == nil)
        #expect(try life("e=12") == nil)
        #expect(try life("X-Amz-Expires=-5") == nil)
        #expect(try life("a=b") == nil)
    }

    @Test func serversMaySendUsOnlyWhereNothingIsLost() throws {
        var options = RegistryOptions()
        options.insecureHosts = ["plain.example", "plain.example:5000"]
        let wire = Wire(transport: HTTPTransport(), options: options)
        let outside = try #require(HTTPURL("https://registry.example/v2/"))
        let local = try #require(HTTPURL("http://127.0.0.1:5000/v2/"))
        func objection(_ target: String, _ home: HTTPURL) throws -> String? {
            wire.objection(to: try #require(HTTPURL(target)), from: home)
        }
        for target in ["https://storage.example/", "http://plain.example/", "http://plain.example:5000/"] {
            #expect(try objection(target, outside) == nil)
            #expect(try objection(target, local) == nil)
        }
        for target in ["http://storage.example/", "http://plain.example:5001/"] {
            #expect(try objection(target, outside) != nil)
        }
        for target in ["https://127.0.0.1/", "http://localhost:5000/", "http://[::1]/"] {
            #expect(try objection(target, outside) != nil)
            #expect(try objection(target, local) == nil)
        }
    }

    @Test func aSignatureIsInNoDescription() throws {
        let url = try #require(HTTPURL("https://s.example/b?sig=secret"))
        #expect("\(url)" == "https://s.example/b")
    }
}

/// When to try again.
@Suite struct RetryBudgetTests {
    private let second: UInt64 = 1_000_000_000

    private func lost(_ bytes: UInt64 = 0, at time: UInt64 = 0) -> AttemptFailure {
        .transport(TransportError(.connectionLost, "lost", bytesReceived: bytes, lastByteAt: time), host: "h")
    }

    @Test func theBackOffGrowsToItsBound() {
        var budget = RetryBudget(seconds: 1000, now: 0)
        let delays = (0..<9).map { _ in budget.failed(lost(), now: 0, random: 1) ?? -1 }
        #expect(delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5])
        var many = RetryBudget(seconds: 1e9, now: 0)
        for _ in 0..<10_000 { _ = many.failed(lost(), now: 0, random: 1) }
        #expect(many.failed(lost(), now: 0, random: 1) == 5)
        #expect(many.failed(lost(), now: 0, random: 0) == 0)
    }

    @Test func theDeadlineEndsIt() {
        var budget = RetryBudget(seconds: 10, now: 5 * second)
        #expect(budget.remaining(now: 14 * second) == 1)
        #expect(budget.failed(lost(), now: 14 * second, random: 1) != nil)
        #expect(budget.failed(lost(), now: 15 * second, random: 1) == nil)
    }

    @Test func newBytesMoveTheDeadlineAndOldOnesDoNot() {
        var budget = RetryBudget(seconds: 10, now: 0)
        #expect(budget.failed(lost(100, at: 8 * second), now: 9 * second, random: 1) != nil)
        #expect(budget.remaining(now: 9 * second) == 9)
        #expect(budget.failed(lost(100, at: 17 * second), now: 17 * second, random: 1) != nil)
        #expect(budget.remaining(now: 17 * second) == 1)
        #expect(budget.failed(lost(100, at: 19 * second), now: 19 * second, random: 1) == nil)
    }

    @Test func retryAfterIsTheLeastWaitAndNeverPastTheDeadline() {
        var budget = RetryBudget(seconds: 10, now: 0)
        let short = AttemptFailure.refused(status: 429, retryAfter: 2, detail: "", host: "h")
        #expect(budget.failed(short, now: 0, random: 0) == 2)
        let long = AttemptFailure.refused(status: 429, retryAfter: 3600, detail: "", host: "h")
        #expect(budget.failed(long, now: 4 * second, random: 0) == 6)
    }

    @Test func somethingWrongIsTriedOnceMore() {
        var budget = RetryBudget(seconds: 10, now: 0)
        let wrong = AttemptFailure.once(RegistryError(.protocolViolation, "wrong"))
        #expect(budget.failed(wrong, now: 0, random: 1) != nil)
        #expect(budget.failed(lost(), now: 0, random: 1) != nil)
        #expect(budget.failed(wrong, now: 0, random: 1) == nil)
        #expect(budget.failed(.final(RegistryError(.denied, "no")), now: 0, random: 1) == nil)
    }

    @Test func errorsSayWhatTheyMean() {
        let budget = RetryBudget(seconds: 10, now: 0)
        func kind(_ kind: TransportError.Kind) -> RegistryError.Kind {
            budget.error(.transport(TransportError(kind, "x"), host: "h"), what: "read").kind
        }
        #expect(kind(.timedOut) == .timedOut)
        for one in [TransportError.Kind.cannotResolve, .cannotConnect, .certificate, .shortBody, .connectionLost] {
            #expect(kind(one) == .unavailable)
        }
        #expect(kind(.tooLarge) == .protocolViolation)
    }
}

/// One piece of work for many.
@Suite struct FlightTests {
    @Test func allGetTheOneResult() async {
        let flight = Flight<Int>()
        await withTaskGroup(of: Int?.self) { group in
            for _ in 0..<20 { group.addTask { await flight.wait(atMost: 60) } }
            flight.finish(5)
            for await value in group { #expect(value == 5) }
        }
        #expect(await flight.wait(atMost: 0) == 5)
    }

    @Test func aWaiterCanGiveUp() async {
        let flight = Flight<Int>()
        #expect(await flight.wait(atMost: 0.01) == nil)
        let waiter = Task { await flight.wait(atMost: 600) }
        waiter.cancel()
        #expect(await waiter.value == nil)
        flight.finish(1)
        #expect(await flight.wait(atMost: 1) == 1)
    }
}
