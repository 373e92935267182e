#define _GNU_SOURCE
#include "shim_curl.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <sys/socket.h>

_Static_assert(LIBCURL_VERSION_NUM >= 0x075500, "CURLOPT_PROTOCOLS_STR came with libcurl 7.85");

CURLcode crfs_curl_set_long(CURL *easy, CURLoption option, long value) {
    return curl_easy_setopt(easy, option, value);
}

CURLcode crfs_curl_set_string(CURL *easy, CURLoption option, const char *value) {
    return curl_easy_setopt(easy, option, value);
}

CURLcode crfs_curl_set_body(CURL *easy, const void *body, size_t size) {
    CURLcode result = curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)size);
    return result == CURLE_OK ? curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body) : result;
}

CURLcode crfs_curl_set_headers(CURL *easy, struct curl_slist *headers) {
    return curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
}

CURLcode crfs_curl_set_blob(CURL *easy, CURLoption option, const void *data, size_t size) {
    // The struct wants a pointer that it could write through; with CURL_BLOB_COPY libcurl does not.
    struct curl_blob blob = {.data = (void *)data, .len = size, .flags = CURL_BLOB_COPY};
    return curl_easy_setopt(easy, option, &blob);
}

CURLcode crfs_curl_set_error_buffer(CURL *easy, char *buffer) {
    return curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, buffer);
}

CURLcode crfs_curl_set_share(CURL *easy, CURLSH *share) { return curl_easy_setopt(easy, CURLOPT_SHARE, share); }

CURLcode crfs_curl_set_sinks(CURL *easy, crfs_curl_sink header, crfs_curl_sink body, void *context) {
    CURLcode result = curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, header);
    if (result == CURLE_OK) result = curl_easy_setopt(easy, CURLOPT_HEADERDATA, context);
    if (result == CURLE_OK) result = curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, body);
    if (result == CURLE_OK) result = curl_easy_setopt(easy, CURLOPT_WRITEDATA, context);
    return result;
}

static int set_user_timeout(void *context, curl_socket_t descriptor, curlsocktype purpose) {
    (void)purpose;
    unsigned int milliseconds = (unsigned int)(uintptr_t)context;
    // Not for every address family; a connection without it works as well.
    (void)setsockopt(descriptor, IPPROTO_TCP, TCP_USER_TIMEOUT, &milliseconds, sizeof milliseconds);
    return CURL_SOCKOPT_OK;
}

CURLcode crfs_curl_set_user_timeout(CURL *easy, unsigned int milliseconds) {
    CURLcode result = curl_easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, set_user_timeout);
    if (result != CURLE_OK) return result;
    return curl_easy_setopt(easy, CURLOPT_SOCKOPTDATA, (void *)(uintptr_t)milliseconds);
}

long crfs_curl_info_long(CURL *easy, CURLINFO info) {
    long value = 0;
    return curl_easy_getinfo(easy, info, &value) == CURLE_OK ? value : 0;
}

curl_off_t crfs_curl_info_offset(CURL *easy, CURLINFO info) {
    curl_off_t value = 0;
    return curl_easy_getinfo(easy, info, &value) == CURLE_OK ? value : 0;
}

CURLMcode crfs_curl_multi_set_long(CURLM *multi, CURLMoption option, long value) {
    return curl_multi_setopt(multi, option, value);
}

int crfs_curl_multi_next_done(CURLM *multi, CURL **easy, CURLcode *result) {
    for (;;) {
        int left = 0;
        CURLMsg *message = curl_multi_info_read(multi, &left);
        if (message == NULL) return 0;
        if (message->msg != CURLMSG_DONE) continue;
        *easy = message->easy_handle;
        *result = message->data.result;
        return 1;
    }
}

CURLSH *crfs_curl_share_tls_sessions(void) {
    CURLSH *share = curl_share_init();
    if (share != NULL) curl_share_setopt(share, CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION);
    return share;
}
