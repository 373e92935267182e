internal import CShims
internal import PosixIO

/// libcurl's global state, set up once per process and never torn down.
enum CurlGlobal {
    private static let ready: Bool = {
        let result = curl_global_init(Int(CURL_GLOBAL_DEFAULT))
        guard result == CURLE_OK else { fatalError("curl_global_init failed: \(result.rawValue)") }
        return true
    }()

    static func prepare() { precondition(ready) }
}

/// A multi handle with one owner, and the TLS sessions that its transfers share.
///
/// Everything but `wakeUp` is only for the thread that drives it.
@safe
struct MultiHandle: ~Copyable, @unchecked Sendable {
    // SAFETY: the pointers are valid until `deinit`; curl_multi_wakeup(3) may be called from any thread.
    private let raw: UnsafeMutableRawPointer
    private let share: UnsafeMutableRawPointer

    init(hostConnections: Int, totalConnections: Int) {
        CurlGlobal.prepare()
        guard let raw = unsafe curl_multi_init(), let share = unsafe crfs_curl_share_tls_sessions() else {
            fatalError("out of memory for libcurl")
        }
        unsafe self.raw = raw
        unsafe self.share = share
        _ = unsafe crfs_curl_multi_set_long(raw, CURLMOPT_PIPELINING, Int(CURLPIPE_MULTIPLEX))
        _ = unsafe crfs_curl_multi_set_long(raw, CURLMOPT_MAX_HOST_CONNECTIONS, hostConnections)
        _ = unsafe crfs_curl_multi_set_long(raw, CURLMOPT_MAX_TOTAL_CONNECTIONS, totalConnections)
        _ = unsafe crfs_curl_multi_set_long(raw, CURLMOPT_MAXCONNECTS, totalConnections)
    }

    deinit {
        // The order matters: the cached connections use the sessions.
        _ = unsafe curl_multi_cleanup(raw)
        _ = unsafe curl_share_cleanup(share)
    }

    /// Ends a `poll` that is going on or the next one; from any thread.
    func wakeUp() { _ = unsafe curl_multi_wakeup(raw) }

    /// Waits for something to do, at most so long.
    func poll(milliseconds: CInt) { _ = unsafe curl_multi_poll(raw, nil, 0, milliseconds, nil) }

    /// Does what can be done without waiting.
    func perform() {
        var running: CInt = 0
        _ = unsafe curl_multi_perform(raw, &running)
    }

    /// Starts a transfer; false when libcurl refuses.
    func add(_ easy: borrowing EasyHandle) -> Bool {
        _ = unsafe crfs_curl_set_share(easy.raw, share)
        return unsafe curl_multi_add_handle(raw, easy.raw) == CURLM_OK
    }

    /// Ends a transfer; its callbacks are not called any more.
    func remove(_ easy: borrowing EasyHandle) {
        _ = unsafe curl_multi_remove_handle(raw, easy.raw)
        _ = unsafe crfs_curl_set_share(easy.raw, nil)
    }

    /// The next finished transfer: its handle's key and its result.
    func nextFinished() -> (key: UInt, result: CURLcode)? {
        var easy: UnsafeMutableRawPointer?
        var result = CURLE_OK
        guard unsafe crfs_curl_multi_next_done(raw, &easy, &result) == 1, let easy = unsafe easy else { return nil }
        return (UInt(bitPattern: easy), result)
    }
}

/// An easy handle with one owner, its header list and its buffer for messages.
@safe
struct EasyHandle: ~Copyable {
    // SAFETY: valid until `deinit`, which cleans up the handle before what it refers to.
    fileprivate let raw: UnsafeMutableRawPointer
    private let errorText: UnsafeMutablePointer<CChar>
    private var list: UnsafeMutablePointer<curl_slist>?

    init?() {
        CurlGlobal.prepare()
        guard let raw = unsafe curl_easy_init() else { return nil }
        unsafe self.raw = raw
        unsafe errorText = .allocate(capacity: Int(CURL_ERROR_SIZE))
        unsafe errorText.initialize(repeating: 0, count: Int(CURL_ERROR_SIZE))
        unsafe list = nil
        _ = unsafe crfs_curl_set_error_buffer(raw, errorText)
    }

    deinit {
        unsafe curl_easy_cleanup(raw)
        unsafe curl_slist_free_all(list)
        unsafe errorText.deallocate()
    }

    /// What a finished transfer is known by.
    var key: UInt { unsafe UInt(bitPattern: raw) }

    /// libcurl's message about what went wrong, or its general text for the code.
    func message(_ code: CURLcode) -> String {
        let text = unsafe String(cString: errorText)
        return text.isEmpty ? unsafe String(cString: curl_easy_strerror(code)) : text
    }

    /// Sets an option; false when libcurl refuses it.
    func set(_ option: CURLoption, _ value: Int) -> Bool {
        unsafe crfs_curl_set_long(raw, option, value) == CURLE_OK
    }

    /// Sets an option that is a string, which libcurl copies; nil resets it.
    func set(_ option: CURLoption, _ value: String?) -> Bool {
        guard let value else { return unsafe crfs_curl_set_string(raw, option, nil) == CURLE_OK }
        return unsafe crfs_curl_set_string(raw, option, value) == CURLE_OK
    }

    /// Sets an option that is a run of bytes, which libcurl copies.
    func set(_ option: CURLoption, blob: [UInt8]) -> Bool {
        unsafe blob.withUnsafeBytes { bytes in
            unsafe crfs_curl_set_blob(raw, option, bytes.baseAddress, bytes.count) == CURLE_OK
        }
    }

    /// Sets the body that is sent, which libcurl does not copy: `body` must outlive the transfer.
    func setBody(_ body: SharedBytes) -> Bool {
        unsafe crfs_curl_set_body(raw, body.base, body.count) == CURLE_OK
    }

    /// Sets the header fields.
    mutating func setHeaders(_ lines: [String]) -> Bool {
        for line in lines {
            // SAFETY: on success the list has a new head or the same one; on failure the old one stays ours.
            guard let longer = unsafe curl_slist_append(list, line) else { return false }
            unsafe list = longer
        }
        return unsafe crfs_curl_set_headers(raw, list) == CURLE_OK
    }

    /// Sets where header lines and body bytes go. `context` must outlive the transfer.
    func setSinks(
        header: crfs_curl_sink,
        body: crfs_curl_sink,
        context: UnsafeMutableRawPointer
    ) -> Bool {
        unsafe crfs_curl_set_sinks(raw, header, body, context) == CURLE_OK
    }

    /// Sets TCP_USER_TIMEOUT of new connections.
    func setUserTimeout(milliseconds: UInt32) -> Bool {
        unsafe crfs_curl_set_user_timeout(raw, milliseconds) == CURLE_OK
    }

    /// Goes on with a transfer that a callback held back; what libcurl kept is handed over before this returns.
    func unpause() { _ = unsafe curl_easy_pause(raw, CURLPAUSE_CONT) }

    func info(_ info: CURLINFO) -> Int { unsafe crfs_curl_info_long(raw, info) }

    func infoOffset(_ info: CURLINFO) -> Int { unsafe crfs_curl_info_offset(raw, info) }
}
