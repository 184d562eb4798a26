// What Go calls. Errors are texts that the caller frees, or NULL.
char *pelton_load(const char *library); // before anything else
char *pelton_add(void *session_options);
void pelton_level(int level);
