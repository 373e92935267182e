#define _GNU_SOURCE
#include "shim_curl.h"

#include <dlfcn.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shim_loading.h"

_Static_assert(LIBCURL_VERSION_NUM >= 0x075500, "CURLOPT_PROTOCOLS_STR came with libcurl 7.85");

// All of libcurl that crfs calls.
#define FUNCTIONS(X)                                                                                                   \
    X(global_init) X(free)                                                                                             \
    X(easy_init) X(easy_cleanup) X(easy_setopt) X(easy_getinfo) X(easy_pause) X(easy_strerror)                         \
    X(slist_append) X(slist_free_all)                                                                                  \
    X(multi_init) X(multi_cleanup) X(multi_setopt) X(multi_add_handle) X(multi_remove_handle) X(multi_perform)         \
    X(multi_poll) X(multi_info_read)                                                                                   \
    X(share_init) X(share_setopt) X(share_cleanup)                                                                     \
    X(url) X(url_cleanup) X(url_set) X(url_get)

#define MEMBER(name) __typeof__(&curl_##name) name;
static struct { FUNCTIONS(MEMBER) } curl;

static pthread_once_t loading = PTHREAD_ONCE_INIT;
static char load_failure[512];
static const char library[] = "libcurl.so.4";

static void load(void) {
    crfs_read_ahead_library(library);
    // Lazily bound: most of what is behind libcurl is never called. Never closed.
    void *handle = dlopen(library, RTLD_LAZY | RTLD_LOCAL);
    if (handle == NULL) {
        snprintf(load_failure, sizeof load_failure, "%s", dlerror());
        return;
    }
    const char *missing = NULL;
#define FIND(name)                                                                                                     \
    curl.name = (__typeof__(&curl_##name))dlsym(handle, "curl_" #name);                                                \
    if (curl.name == NULL) missing = "curl_" #name;
    FUNCTIONS(FIND)
    if (missing != NULL) {
        snprintf(load_failure, sizeof load_failure, "%s has no %s", library, missing);
        return;
    }
    CURLcode result = curl.global_init(CURL_GLOBAL_DEFAULT);
    if (result != CURLE_OK)
        snprintf(load_failure, sizeof load_failure, "curl_global_init: %s", curl.easy_strerror(result));
}

const char *crfs_curl_load(void) {
    pthread_once(&loading, load);
    return load_failure[0] == 0 ? NULL : load_failure;
}

CURL *crfs_curl_easy_init(void) { return curl.easy_init(); }
void crfs_curl_easy_cleanup(CURL *easy) { curl.easy_cleanup(easy); }
const char *crfs_curl_easy_strerror(CURLcode code) { return curl.easy_strerror(code); }
CURLcode crfs_curl_easy_continue(CURL *easy) { return curl.easy_pause(easy, CURLPAUSE_CONT); }
struct curl_slist *crfs_curl_slist_append(struct curl_slist *list, const char *line) {
    return curl.slist_append(list, line);
}
void crfs_curl_slist_free_all(struct curl_slist *list) { curl.slist_free_all(list); }
CURLM *crfs_curl_multi_init(void) { return curl.multi_init(); }
void crfs_curl_multi_cleanup(CURLM *multi) { curl.multi_cleanup(multi); }
CURLMcode crfs_curl_multi_add(CURLM *multi, CURL *easy) { return curl.multi_add_handle(multi, easy); }
CURLMcode crfs_curl_multi_remove(CURLM *multi, CURL *easy) { return curl.multi_remove_handle(multi, easy); }
void crfs_curl_share_cleanup(CURLSH *share) { curl.share_cleanup(share); }
CURLU *crfs_curl_url(void) { return curl.url(); }
void crfs_curl_url_cleanup(CURLU *url) { curl.url_cleanup(url); }
CURLUcode crfs_curl_url_set(CURLU *url, CURLUPart part, const char *text, unsigned flags) {
    return curl.url_set(url, part, text, flags);
}
CURLUcode crfs_curl_url_get(CURLU *url, CURLUPart part, char **text, unsigned flags) {
    return curl.url_get(url, part, text, flags);
}
void crfs_curl_free(void *memory) { curl.free(memory); }

void crfs_curl_multi_perform(CURLM *multi) {
    int running = 0;
    curl.multi_perform(multi, &running);
}

void crfs_curl_multi_poll(CURLM *multi, int wake, int milliseconds) {
    struct curl_waitfd extra = {.fd = wake, .events = CURL_WAIT_POLLIN};
    curl.multi_poll(multi, &extra, 1, milliseconds, NULL);
    uint64_t count;
    (void)!read(wake, &count, sizeof count);
}

CURLcode crfs_curl_set_long(CURL *easy, CURLoption option, long value) {
    return curl.easy_setopt(easy, option, value);
}

CURLcode crfs_curl_set_string(CURL *easy, CURLoption option, const char *value) {
    return curl.easy_setopt(easy, option, value);
}

CURLcode crfs_curl_set_body(CURL *easy, const void *body, size_t size) {
    CURLcode result = curl.easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)size);
    return result == CURLE_OK ? curl.easy_setopt(easy, CURLOPT_POSTFIELDS, body) : result;
}

CURLcode crfs_curl_set_headers(CURL *easy, struct curl_slist *headers) {
    return curl.easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
}

CURLcode crfs_curl_set_blob(CURL *easy, CURLoption option, const void *data, size_t size) {
    // The struct wants a pointer that it could write through; with CURL_BLOB_COPY libcurl does not.
    struct curl_blob blob = {.data = (void *)data, .len = size, .flags = CURL_BLOB_COPY};
    return curl.easy_setopt(easy, option, &blob);
}

CURLcode crfs_curl_set_error_buffer(CURL *easy, char *buffer) {
    return curl.easy_setopt(easy, CURLOPT_ERRORBUFFER, buffer);
}

CURLcode crfs_curl_set_share(CURL *easy, CURLSH *share) { return curl.easy_setopt(easy, CURLOPT_SHARE, share); }

CURLcode crfs_curl_set_sinks(CURL *easy, crfs_curl_sink header, crfs_curl_sink body, void *context) {
    CURLcode result = curl.easy_setopt(easy, CURLOPT_HEADERFUNCTION, header);
    if (result == CURLE_OK) result = curl.easy_setopt(easy, CURLOPT_HEADERDATA, context);
    if (result == CURLE_OK) result = curl.easy_setopt(easy, CURLOPT_WRITEFUNCTION, body);
    if (result == CURLE_OK) result = curl.easy_setopt(easy, CURLOPT_WRITEDATA, context);
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
    CURLcode result = curl.easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, set_user_timeout);
    if (result != CURLE_OK) return result;
    return curl.easy_setopt(easy, CURLOPT_SOCKOPTDATA, (void *)(uintptr_t)milliseconds);
}

long crfs_curl_info_long(CURL *easy, CURLINFO info) {
    long value = 0;
    return curl.easy_getinfo(easy, info, &value) == CURLE_OK ? value : 0;
}

curl_off_t crfs_curl_info_offset(CURL *easy, CURLINFO info) {
    curl_off_t value = 0;
    return curl.easy_getinfo(easy, info, &value) == CURLE_OK ? value : 0;
}

CURLMcode crfs_curl_multi_set_long(CURLM *multi, CURLMoption option, long value) {
    return curl.multi_setopt(multi, option, value);
}

int crfs_curl_multi_next_done(CURLM *multi, CURL **easy, CURLcode *result) {
    for (;;) {
        int left = 0;
        CURLMsg *message = curl.multi_info_read(multi, &left);
        if (message == NULL) return 0;
        if (message->msg != CURLMSG_DONE) continue;
        *easy = message->easy_handle;
        *result = message->data.result;
        return 1;
    }
}

CURLSH *crfs_curl_share_tls_sessions(void) {
    CURLSH *share = curl.share_init();
    if (share != NULL) curl.share_setopt(share, CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION);
    return share;
}
