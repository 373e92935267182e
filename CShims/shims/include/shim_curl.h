// Typed doors to libcurl's variadic functions, and the socket options that libcurl has no option for.
#ifndef CRFS_SHIM_CURL_H
#define CRFS_SHIM_CURL_H

#include <curl/curl.h>
#include <stddef.h>

// curl_easy_setopt(3) for options that take a long, a string (copied by libcurl; NULL resets it) or a list (not
// copied: it must outlive the transfer). Safe on different handles at once, not on one.
CURLcode crfs_curl_set_long(CURL *easy, CURLoption option, long value);
CURLcode crfs_curl_set_string(CURL *easy, CURLoption option, const char *value);
CURLcode crfs_curl_set_headers(CURL *easy, struct curl_slist *headers);

// curl_easy_setopt(3) for options that take a blob: `size` bytes at `data`, which libcurl copies.
CURLcode crfs_curl_set_blob(CURL *easy, CURLoption option, const void *data, size_t size);

// Makes the request send `size` bytes at `body`, which are not copied and must outlive the transfer.
CURLcode crfs_curl_set_body(CURL *easy, const void *body, size_t size);

// Sets CURLOPT_ERRORBUFFER; `buffer` has CURL_ERROR_SIZE bytes and must outlive the handle or be replaced by NULL.
CURLcode crfs_curl_set_error_buffer(CURL *easy, char *buffer);

// Sets CURLOPT_SHARE; `share` must outlive the handle.
CURLcode crfs_curl_set_share(CURL *easy, CURLSH *share);

// How libcurl hands over header lines and body bytes: `count` bytes at `bytes`. Anything but `count` as the result
// ends the transfer with CURLE_WRITE_ERROR.
typedef size_t (*crfs_curl_sink)(char *bytes, size_t size, size_t count, void *context);

// Sets both functions and their common context, which must outlive the transfer.
CURLcode crfs_curl_set_sinks(CURL *easy, crfs_curl_sink header, crfs_curl_sink body, void *context);

// Lets the kernel end a connection whose sent bytes nobody acknowledged for `milliseconds` (TCP_USER_TIMEOUT).
// Keep-alive probes do not run while bytes are outstanding, so a connection into a black hole would stay for a
// quarter of an hour, and HTTP/2 would put new streams on it.
CURLcode crfs_curl_set_user_timeout(CURL *easy, unsigned int milliseconds);

// curl_easy_getinfo(3) for a long and for a curl_off_t; 0 when libcurl does not know.
long crfs_curl_info_long(CURL *easy, CURLINFO info);
curl_off_t crfs_curl_info_offset(CURL *easy, CURLINFO info);

// curl_multi_setopt(3) for options that take a long.
CURLMcode crfs_curl_multi_set_long(CURLM *multi, CURLMoption option, long value);

// Takes the next finished transfer from curl_multi_info_read(3). Returns 0 when there is none, else 1 with its handle
// and its result. Only for the thread that drives `multi`.
int crfs_curl_multi_next_done(CURLM *multi, CURL **easy, CURLcode *result);

// A share of TLS sessions (curl_share_init(3)), so that a new connection resumes the session of an earlier one although
// every transfer has its own handle. It has no locks: all its handles must be driven by one thread. NULL without memory.
CURLSH *crfs_curl_share_tls_sessions(void);

#endif
