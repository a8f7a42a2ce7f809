// Temporal.Now over the clock that the rest of the guest's world has. Evaluated before the guest's
// code where that names Temporal, since V8 makes that late, and to look at it is to make it.
(kit) => {
  'use strict';
  const { defineProperty } = kit, now = kit.use('now');
  const { Instant, Now } = Temporal, { timeZoneId } = Now;
  const zoned = (zone = timeZoneId()) => Instant.fromEpochMilliseconds(now()).toZonedDateTimeISO(zone);
  const own = {
    instant() { return Instant.fromEpochMilliseconds(now()); },
    zonedDateTimeISO(zone) { return zoned(zone); },
    plainDateTimeISO(zone) { return zoned(zone).toPlainDateTime(); },
    plainDateISO(zone) { return zoned(zone).toPlainDate(); },
    plainTimeISO(zone) { return zoned(zone).toPlainTime(); },
  };
  for (const name in own) {
    defineProperty(Now, name, { __proto__: null, value: own[name], writable: true, configurable: true, enumerable: false });
  }
  return { __proto__: null, temporal: true };
}
