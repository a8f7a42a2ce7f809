/* What a module may import from its host beside WASI. Texts are UTF-8, values JSON. */
#ifndef ORVALHO_H
#define ORVALHO_H

#define ORVALHO(name) __attribute__((import_module("orvalho"), import_name(name)))

ORVALHO("log") void orvalho_log(int level, const char *at, int size);
ORVALHO("params") int orvalho_params(void);
ORVALHO("call") int orvalho_call(const char *op, int op_size, const char *list, int list_size);
ORVALHO("take") void orvalho_take(char *at);
ORVALHO("result") void orvalho_result(const char *at, int size);
ORVALHO("fail") void orvalho_fail(const char *at, int size);

#endif
