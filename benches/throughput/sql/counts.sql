-- A user's counts.
\set user random(1, :users)
SELECT * FROM user_counts WHERE user_id = :user;
